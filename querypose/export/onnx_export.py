"""Writes a model as one ONNX file with everything needed to use it."""

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from querypose.atomic_io import whole_file
from querypose.errors import UserError
from querypose.export.onnx_graph import OnnxGraph, traceable
from querypose.modeling.meta_arch import QueryPose
from querypose.onnx import FORMAT_VERSION, METADATA_KEY
from querypose.skeleton import Skeleton

DEFAULT_OPSET = 17
MIN_OPSET = 16  # the first whose RoiAlign has the half-pixel offset
MAX_OPSET = 20  # the last that PyTorch's exporter by tracing knows
INPUTS = ("images", "image_sizes", "score_threshold")
OUTPUTS = ("boxes", "scores", "keypoints", "keypoint_sigmas")  # the last one only of models that predict sigma
# Height and width of the traced image: different and no multiples of 32, so that no size becomes a constant, and large
# enough for shifted windows on all of Swin's maps.
TRACED_SIZE = (330, 260)


def export_onnx(
    model: QueryPose, cfg: CfgNode, skeleton: Skeleton, file: str | os.PathLike[str], *, opset: int = DEFAULT_OPSET
) -> Path:
    """Write `model`, which `cfg` describes, to `file` atomically.

    The graph is `OnnxGraph` with free batch and image sizes and defaults for all inputs but `images`. Skeleton and
    preprocessing are in the metadata, see `docs/EXPORT.md`.

    Raises:
        UserError: the packages of the extra `onnx` are missing; an opset without the RoIAlign that is needed; a full
            variant with `topk_poses`; a model with flip testing.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError("the export needs the package onnx: pip install 'querypose[onnx]'") from error
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise UserError(f"the opset is {opset}; it must be from {MIN_OPSET} to {MAX_OPSET}")
    if model.topk_poses and not model.decoder.light:
        raise UserError(
            "the full variant exports all its queries: set MODEL.QUERYPOSE.TEST.TOPK_POSES 0 (fewer would be an "
            "approximation)"
        )
    if model.flip_testing:
        raise UserError("an ONNX file runs the network once: set TEST.FLIP False")
    outputs = OUTPUTS if model.criterion.keypoint_loss.uses_sigma else OUTPUTS[:-1]
    images = 255 * torch.rand(2, 3, *TRACED_SIZE, device=model.device)
    sizes = torch.tensor([[0.0, 0.0], [250.0, 300.0]], device=model.device)
    with tempfile.TemporaryDirectory() as folder, traceable(model), warnings.catch_warnings():
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
            input_names=list(INPUTS),
            output_names=list(outputs),
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
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(metadata(model, cfg, skeleton))})
    proto.producer_name = "QueryPose"
    onnx.checker.check_model(proto)
    file = Path(file)
    with whole_file(file) as opened:
        opened.write(proto.SerializeToString())
    return file


def metadata(model: QueryPose, cfg: CfgNode, skeleton: Skeleton) -> dict[str, Any]:
    """The description of itself that the file holds, see `docs/EXPORT.md`."""
    queries = model.decoder.instance_queries.num_embeddings
    return {
        "format": FORMAT_VERSION,
        "skeleton": {
            "keypoint_names": list(skeleton.keypoint_names),
            "flip_pairs": [list(pair) for pair in skeleton.flip_pairs],
            "limbs": [list(limb) for limb in skeleton.limbs],
            "sigmas": list(skeleton.sigmas),
        },
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
