"""Writes a model as one ONNX file with everything that using it needs."""

import json
import os
import tempfile
import warnings
from pathlib import Path

import torch
from detectron2.config import CfgNode

from querypose.errors import UserError
from querypose.export.onnx_graph import OnnxGraph, traceable
from querypose.modeling.meta_arch import QueryPose
from querypose.onnx import FORMAT_VERSION, METADATA_KEY
from querypose.skeleton import Skeleton

DEFAULT_OPSET = 17
MIN_OPSET = 16  # the first whose RoiAlign has the half-pixel offset
MAX_OPSET = 20  # the last that PyTorch's exporter by tracing knows
INPUTS = ("images", "image_sizes")
OUTPUTS = ("boxes", "scores", "keypoints")
# Sides of the image that the graph is traced with; no multiples of 32 and not equal, so that nothing is mistaken for a
# constant, and large enough for shifted windows on all of Swin's maps.
TRACED_SIZE = (330, 260)


def export_onnx(
    model: QueryPose, cfg: CfgNode, skeleton: Skeleton, file: str | os.PathLike, *, opset: int = DEFAULT_OPSET
) -> Path:
    """Write `model`, that `cfg` describes, to `file`; the whole of it or nothing.

    The graph is `OnnxGraph`, its batch and image size free. `image_sizes` has a default, so that images that all have
    the batch's size need only `images`. Skeleton and preprocessing are in the metadata, see `docs/EXPORT.md`.

    Raises:
        UserError: the packages of the extra `onnx` are missing, or an opset without RoIAlign as it is needed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise UserError(f"the export needs {error.name}: pip install 'querypose[onnx]', or pip install onnx") from error
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise UserError(f"the opset is {opset}; it must be from {MIN_OPSET} to {MAX_OPSET}")

    if model.pose_score_floor > 0:
        raise UserError(
            "the export needs as many persons from every image: set MODEL.QUERYPOSE.TEST.POSE_SCORE_FLOOR 0 and leave "
            "out low scores afterwards"
        )
    if model.leaves_out_queries and not model.decoder.light:
        raise UserError(
            "the full variant exports all its queries: set MODEL.QUERYPOSE.TEST.TOPK_POSES 0 (fewer would be an "
            "approximation)"
        )

    file = Path(file)
    images = 255 * torch.rand(2, 3, *TRACED_SIZE, device=model.device)
    sizes = torch.tensor([[0.0, 0.0], [250.0, 300.0]], device=model.device)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder, traceable(model), warnings.catch_warnings():
        # on values that tracing makes constant (sizes of windows, numbers of queries), and on the exporter's successor,
        # which takes minutes for the same graph
        warnings.simplefilter("ignore")
        traced = Path(folder) / "traced.onnx"
        torch.onnx.export(
            OnnxGraph(model),
            (images, sizes),
            str(traced),
            dynamo=False,
            opset_version=opset,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes={
                "images": {0: "batch", 2: "height", 3: "width"},
                "image_sizes": {0: "sizes"},
                **{name: {0: "batch"} for name in OUTPUTS},
            },
        )
        proto = onnx.load(traced)
        default = numpy_helper.from_array(torch.zeros(1, 2).numpy(), "image_sizes")
        proto.graph.initializer.append(default)
        entry = proto.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, json.dumps(metadata(model, cfg, skeleton))
        proto.producer_name = "QueryPose"
        whole = Path(folder) / "whole.onnx"
        onnx.save(proto, whole)
        onnx.checker.check_model(str(whole))
        os.replace(whole, file)
    return file


def metadata(model: QueryPose, cfg: CfgNode, skeleton: Skeleton) -> dict:
    """What the file says about itself, as `docs/EXPORT.md` states it."""
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
