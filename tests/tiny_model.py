"""A QueryPose small enough for a training step in a fraction of a second, and batches for it."""

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, Keypoints
from torch import Tensor, nn

from querypose.config import add_querypose_config
from querypose.modeling import QueryPose

BODY_NAMES = ["head", "neck", "left_hand", "right_hand", "left_foot", "right_foot"]
NUM_QUERIES = 6


def tiny_config(variant: str = "light", *opts) -> CfgNode:
    """Two stages, six queries, width 16, over a narrow ResNet18; `opts` are KEY, VALUE, KEY, VALUE .."""
    cfg = get_cfg()
    add_querypose_config(cfg)
    cfg.DATASETS.TRAIN = ("keypoints_coco_2017_train",)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = "resnet18"
    cfg.MODEL.TIMM.OPTIONS.channels = [8, 8, 16, 16]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.QUERYPOSE.update(VARIANT=variant, NUM_QUERIES=NUM_QUERIES, NUM_STAGES=2, HIDDEN_DIM=16, PART_DIM=16)
    cfg.MODEL.QUERYPOSE.update(NUM_HEADS=4, FEEDFORWARD_DIM=32, DYNAMIC_DIM=4, NUM_TOWER_LAYERS=2, TOWER_DIM=16)
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 5
    cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION = 6
    cfg.merge_from_list(list(opts))
    return cfg


def tiny_model(variant: str = "light", *opts) -> QueryPose:
    """The model of `tiny_config`, its random weights those of seed 0."""
    torch.manual_seed(0)
    return build_model(tiny_config(variant, *opts))


def spread(model: QueryPose) -> QueryPose:
    """Give every query a proposal box and predictions of its own, in place, as training does.

    At the start all queries see the whole image, which hides many mistakes.
    """
    generator = torch.Generator().manual_seed(1)

    def noise(parameter: Tensor, scale: float) -> Tensor:
        return scale * torch.randn(parameter.shape, generator=generator)

    with torch.no_grad():
        if model.image_queries is None:
            boxes = model.decoder.proposal_boxes.weight
            boxes[:, :2] = 0.5 + 0.15 * torch.rand(boxes[:, :2].shape, generator=generator)
            boxes[:, 2:] = 0.3 + 0.4 * torch.rand(boxes[:, 2:].shape, generator=generator)
        else:
            head = model.image_queries.head[-1].weight
            head.add_(noise(head, 0.5))
        for stage in model.decoder.box_stages:
            if model.image_queries is not None:  # these start at zero
                stage.box_delta.weight.add_(noise(stage.box_delta.weight, 0.3))
            stage.box_delta.weight.mul_(0.3)
            stage.class_logit.bias.zero_()
        for stage in model.decoder.keypoint_stages:
            for parameter in (stage.heads.coordinate_weight, stage.heads.sigma_weight):
                if parameter is not None:  # no sigma under L1
                    parameter.copy_(noise(parameter, 0.2))
            attention = stage.part_embedding.attention.weight
            attention.add_(noise(attention, 0.3))
            deconvolution = stage.part_embedding.upsample[0].weight
            deconvolution.add_(noise(deconvolution, 0.05))
    return model


def without_batch_statistics(model: nn.Module) -> nn.Module:
    """Training mode, but for BatchNorm, which keeps its running statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def gradients_of(model: nn.Module, batch: list[dict]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses of a batch, and by name the gradient of every trainable parameter, None without one."""
    losses = model(batch)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def person_boxes(number: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(number, 4) random corners well inside an image of that size in pixels."""
    low = torch.rand(number, 2, generator=generator) * 0.4 + 0.05
    high = low + torch.rand(number, 2, generator=generator) * 0.4 + 0.15
    return torch.cat([low, high], dim=1) * torch.tensor([width, height, width, height])


def tiny_batch(persons=(2, 1), sizes=((64, 96), (96, 64)), num_keypoints: int = 17, seed: int = 0) -> list[dict]:
    """Training inputs: images of noise of `sizes` (height, width), each with that many persons in them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for number, (height, width) in zip(persons, sizes, strict=True):
        boxes = person_boxes(number, height, width, generator)
        place = torch.rand(number, num_keypoints, 2, generator=generator)
        keypoints = boxes[:, None, :2] + place * (boxes[:, 2:] - boxes[:, :2])[:, None]
        visible = torch.full((number, num_keypoints, 1), 2.0)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.zeros(number, dtype=torch.long)
        instances.gt_keypoints = Keypoints(torch.cat([keypoints, visible], dim=2))
        image = (255 * torch.rand(3, height, width, generator=generator)).to(torch.uint8)
        inputs.append({"image": image, "instances": instances})
    return inputs
