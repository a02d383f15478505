"""Writes a model as one ONNX file, from images to persons, with everything needed to use it."""

import contextlib
import copy
import dataclasses
import functools
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torchvision
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from querypose.atomic_io import whole_file, writing
from querypose.errors import UserError, imported
from querypose.modeling.decoder import BoxOutput, KeypointOutput
from querypose.modeling.meta_arch import QueryPose, poses
from querypose.modeling.ops import pyramid_pooling
from querypose.onnx import FORMAT_VERSION, METADATA_KEY
from querypose.skeleton import Skeleton

DEFAULT_OPSET = 17
_OPSETS = range(16, 21)  # the first has RoiAlign with half-pixel offset, the last is PyTorch's exporter's by tracing
# Height and width of the traced image: different and no multiples of 32, so that no size becomes a constant, and large
# enough for shifted windows on all of Swin's maps.
_TRACED_SIZE = (330, 260)


def export_onnx(
    model: QueryPose, cfg: CfgNode, skeleton: Skeleton, file: str | os.PathLike[str], *, opset: int = DEFAULT_OPSET
) -> Path:
    """Write `model`, which `cfg` describes, to `file` atomically; raise `UserError` if it cannot be exported.

    The graph is `OnnxGraph` with free batch and image sizes and defaults for all inputs but `images`. Skeleton and
    preprocessing are in the metadata, see `docs/EXPORT.md`.
    """
    onnx = imported("onnx", "'querypose[onnx]'")
    if opset not in _OPSETS:
        raise UserError(f"the opset is {opset}; it must be from {_OPSETS[0]} to {_OPSETS[-1]}")
    if model.topk_poses and not model.decoder.light:
        raise UserError("the full variant exports all its queries: set MODEL.QUERYPOSE.TEST.TOPK_POSES 0")
    if model.flip_testing:
        raise UserError("an ONNX file runs the network once: set TEST.FLIP False")
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise UserError("the weights are rounded: export the model of a PosePredictor with precision='float32'")
    outputs = ["boxes", "scores", "keypoints"]
    if model.criterion.keypoint_loss.uses_sigma:
        outputs.append("keypoint_sigmas")
    images = 255 * torch.rand(2, 3, *_TRACED_SIZE, device=model.device)
    sizes = torch.tensor([[0.0, 0.0], [250.0, 300.0]], device=model.device)
    with tempfile.TemporaryDirectory() as folder, _traceable_operators(), warnings.catch_warnings():
        traced = os.path.join(folder, "traced.onnx")
        # about values that tracing makes constant (window sizes, numbers of queries), and about the exporter's
        # successor, which takes minutes for the same graph
        warnings.simplefilter("ignore")
        torch.onnx.export(
            OnnxGraph(model),
            (images, sizes, torch.zeros(1, device=model.device)),
            traced,
            dynamo=False,
            opset_version=opset,
            input_names=["images", "image_sizes", "score_threshold"],
            output_names=outputs,
            dynamic_axes={
                "images": {0: "batch", 2: "height", 3: "width"},
                "image_sizes": {0: "sizes"},
                **{name: {0: "batch", 1: "persons"} for name in outputs},
            },
        )
        proto = onnx.load(traced)
    defaults = {"image_sizes": [[0, 0]], "score_threshold": [cfg.MODEL.QUERYPOSE.TEST.POSE_SCORE_FLOOR]}
    for name, values in defaults.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.float32), name))
    queries = model.decoder.instance_queries.num_embeddings
    metadata = {
        "format": FORMAT_VERSION,
        "skeleton": dataclasses.asdict(skeleton),
        "preprocessing": {
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "channel_order": cfg.INPUT.FORMAT,
            "in_the_graph": ["normalization", "padding"],
            "mean": model.pixel_mean.flatten().tolist(),
            "std": model.pixel_std.flatten().tolist(),
            "size_divisibility": model.backbone.size_divisibility,
        },
        "variant": cfg.MODEL.QUERYPOSE.VARIANT,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "persons_per_image": min(model.max_detections, model.topk_poses or queries, queries),
    }
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(metadata)})
    proto.producer_name = "QueryPose"
    onnx.checker.check_model(proto)
    with writing(file), whole_file(Path(file)) as opened:
        opened.write(proto.SerializeToString())
    return Path(file)


class OnnxGraph(nn.Module):
    """The inference of a `QueryPose` up to the scaling to another size, every shape a function of the input's."""

    def __init__(self, model: QueryPose):
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        for stage in self.model.decoder.box_stages:  # whatever the boxes, the same operations
            stage.__dict__["pool"] = functools.partial(pyramid_pooling.pool_every_level, stage.pooler)

    def forward(self, images: Tensor, image_sizes: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        """What the file computes:

        images (B, 3, H, W) in the upper left corners, image_sizes (B, 2) or (1, 2): their widths and heights, 0 for W
        and H, score_threshold (1,) -> boxes (B, n, 4), scores (B, n), keypoints (B, n, K, 3) and, if the keypoint loss
        uses sigma, keypoint_sigmas (B, n, K, 2) of the n best persons, as docs/EXPORT.md states.
        """
        model = self.model
        batch, _, height, width = images.shape
        # while a graph is traced, sides are tensors already, and must stay it
        whole = torch.stack([torch.as_tensor(side).float() for side in (width, height)]).to(images)
        sizes = torch.where(image_sizes > 0, image_sizes, whole) + images.new_zeros(batch, 2)

        features, maps = model.feature_maps(model.backbone(self.preprocess(images, sizes)))
        boxes, scores, keypoints, sigmas = poses(*self.decode(features, model.proposals(sizes, maps), score_threshold))

        # every image has as many rows as any other, and they follow each other
        scores = scores.view(batch, -1)
        boxes = torch.minimum(boxes.view(batch, -1, 4).clamp(min=0), sizes.repeat(1, 2)[:, None])
        has_area = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(dim=-1)
        scores, order = torch.where(has_area & (scores >= score_threshold), scores, 0.0).sort(dim=1, descending=True)
        most = (scores > 0).sum(dim=1).amax().clamp(max=model.max_detections)
        scores, order = scores[:, :most], order[:, :most, None]
        number = model.num_keypoints

        def best(values: Tensor, length: int) -> Tensor:
            flat = values.reshape(batch, -1, number * length).gather(1, order.expand(-1, -1, number * length))
            return flat.unflatten(2, (number, length))

        outputs = boxes.gather(1, order.expand(-1, -1, 4)), scores, best(keypoints, 3)
        return (*outputs, best(sigmas, 2)) if model.criterion.keypoint_loss.uses_sigma else outputs

    def preprocess(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Normalize, zero the pixels outside of an image, pad right and bottom to a multiple of the strides."""
        height, width = images.shape[-2:]
        normalized = (images - self.model.pixel_mean) / self.model.pixel_std
        columns = torch.arange(width, device=images.device)[None, None, None] < sizes[:, 0, None, None, None]
        rows = torch.arange(height, device=images.device)[None, None, :, None] < sizes[:, 1, None, None, None]
        divisor = max(self.model.backbone.size_divisibility, 1)
        return F.pad(torch.where(columns & rows, normalized, 0.0), (0, -width % divisor, 0, -height % divisor))

    def decode(
        self, features: list[Tensor], first: tuple[Tensor, Tensor], score_threshold: Tensor
    ) -> tuple[BoxOutput, KeypointOutput]:
        """As the model's, the rows of light and branched models as many from each image."""
        model, decoder = self.model, self.model.decoder
        if not decoder.light:
            return decoder.decode_jointly(features, *first)
        boxes = decoder.decode_boxes(features, *first)
        logits, best = boxes.logits[-1].float().flatten(1).sort(dim=1, descending=True)
        batch, queries = logits.shape
        # a person's score is at most its class probability
        number = (logits.sigmoid() >= score_threshold).sum(dim=1).amax().clamp(min=1)  # runtimes fail on no rows
        if 0 < model.topk_poses < decoder.instance_queries.num_embeddings:
            number = number.clamp(max=model.topk_poses)
        rows = best[:, :number] + torch.arange(batch, device=logits.device)[:, None] * queries
        return boxes, decoder.decode_keypoints(features[0], boxes, rows.flatten())


@contextlib.contextmanager
def _traceable_operators() -> Iterator[None]:
    """Inside, RoIAlign is torchvision's, which has an ONNX operator, and attention runs without fused kernels."""
    fused, own = torch.backends.mha.get_fastpath_enabled(), pyramid_pooling.roi_align
    torch.backends.mha.set_fastpath_enabled(False)
    pyramid_pooling.roi_align = functools.partial(torchvision.ops.roi_align, aligned=True)
    try:
        yield
    finally:
        pyramid_pooling.roi_align = own
        torch.backends.mha.set_fastpath_enabled(fused)
