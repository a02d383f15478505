"""Multiply-adds of a forward pass, counted by the shapes of its tensors alone."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import roi_align

# A place of a RoIAlign map is the mean of 2 x 2 samples, each weighed together from 4 values.
_MULTIPLY_ADDS_PER_PLACE = 2 * 2 * 4


@dataclass
class Cost:
    """What a model takes for one image.

    parameters: numbers that can be trained; the running statistics of BatchNorm, and all of a frozen one, are none.
    backbone, box_stages, keypoint_stages: multiply-adds; backbone is with its neck.
    """

    parameters: int
    backbone: int
    box_stages: int
    keypoint_stages: int

    @property
    def total(self) -> int:
        return self.backbone + self.box_stages + self.keypoint_stages


def count_parameters(cfg: CfgNode) -> int:
    """Number of parameters of the config's model, of which nothing is allocated."""
    return sum(parameter.numel() for parameter in _shapes_alone(cfg).parameters())


def count_cost(cfg: CfgNode, height: int, width: int) -> Cost:
    """Parameters of the config's model and the multiply-adds of one image of `height` x `width` pixels.

    Counted are convolutions, matrix products (Linear layers, dynamic MLPs, attention) and RoIAlign, as one operation
    for a multiplication and its addition, as Detectron2 and fvcore count. Not counted are norms, activations,
    interpolation and pooling. Every query goes through all stages. The flow serves the loss alone and is not run.

    Args:
        cfg: of a model without weights to load.
        height, width: of the padded input, multiples of 32.
    """
    model, operations = count_operations(cfg, height, width)
    stages = len(model.decoder.box_stages)
    cost = Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        backbone=operations["backbone"],
        box_stages=sum(operations[f"decoder.box_stages.{stage}"] for stage in range(stages)),
        keypoint_stages=sum(operations[f"decoder.keypoint_stages.{stage}"] for stage in range(stages)),
    )
    assert cost.total == operations["backbone"] + operations["decoder"]
    return cost


def count_operations(cfg: CfgNode, height: int, width: int) -> tuple[nn.Module, dict[str, int]]:
    """The multiply-adds of each module that inference calls, by its name in the model, as of `count_cost`.

    A module's number holds those of the modules in it. Lists of modules are not called and have none.

    Returns:
        the model, of shapes alone, and the numbers.
    """
    model = _shapes_alone(cfg).eval()
    poolers = [stage.pooler for stage in model.decoder.box_stages]
    for stage in model.decoder.box_stages:
        stage.pooler = _AnyLevel(stage.pooler)
    # of autocast, which the stages turn off, the device "meta" knows nothing: tensors that claim to be on the CPU
    with FakeTensorMode(), torch.no_grad(), _plain_attention():
        with _counter() as backbone:
            features = functional_call(model.backbone, _claimed(model.backbone), torch.empty(1, 3, height, width))
        features = [features[name] for name in model.in_features]
        with _counter() as decoder:
            functional_call(model.decoder, _claimed(model.decoder), (features, torch.empty(1, 2)))
    for stage, pooler in zip(model.decoder.box_stages, poolers, strict=True):
        stage.pooler = pooler
    operations = {}
    for part, counter in (("backbone", backbone), ("decoder", decoder)):
        for name, kinds in counter.get_flop_counts().items():
            if name != "Global":
                # PyTorch names the outermost module by its class
                operations[".".join([part, *name.split(".")[1:]])] = sum(kinds.values()) // 2
    return model, operations


def _shapes_alone(cfg: CfgNode) -> nn.Module:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    # neither changes a shape
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.COMPILE = "none"
    with torch.device("meta"):
        return build_model(cfg)


def _claimed(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without numbers, on the device that is the present one."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors}


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """nn.MultiheadAttention as single operations; PyTorch's shortcut for inference is one that the counter omits."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _counter() -> FlopCounterMode:
    """PyTorch's counter, which counts two operations to a multiply-add; with both RoIAligns, unknown to it."""
    mapping = {torch.ops.torchvision.roi_align: _roi_align_flops}
    mapping |= dict.fromkeys((torch.ops.aten._embedding_bag, torch.ops.aten._embedding_bag_forward_only), _bag_flops)
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _roi_align_flops(*args, out_shape, **kwargs) -> int:
    return 2 * _MULTIPLY_ADDS_PER_PLACE * out_shape.numel()


def _bag_flops(*args, out_shape, **kwargs) -> int:
    return _roi_align_flops(out_shape=out_shape[0])


class _AnyLevel(nn.Module):
    """Stands in for a ROIPooler where boxes have no numbers, so that none can tell its level: all take the finest.

    The cost does not depend on the level.
    """

    def __init__(self, pooler: nn.Module):
        super().__init__()
        self.output_size = pooler.output_size

    def forward(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        return roi_align(features[0], [image.tensor for image in boxes], self.output_size, sampling_ratio=2)
