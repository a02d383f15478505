"""The published TensorFlow.js files of MoveNet MultiPose, for the backbone of that name."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from querypose.conversion.layout import Conversion, Layout, split_off
from querypose.errors import UserError

_ROOT = "StatefulPartitionedCall/"
_EXTRACTOR = f"{_ROOT}center_net_mobile_net_v2fpn_feature_extractor/model_1/"

# our layer -> the file's; the separable convolutions of the heads are counted from 3, their last ones from 4
_HEADS = {
    "backbone.heads.center": "center_0",
    "backbone.heads.size": "box_scale_0",
    "backbone.heads.offset": "box_offset_0",
    "backbone.heads.heatmaps": "kpt_heatmap_0",
    "backbone.heads.regression": "kpt_regress_0",
    "keypoint_offset": "kpt_offset_0",
}
_LATERALS = {"4": "conv2d_3", "8": "conv2d_2", "16": "conv2d_1", "32": "conv2d"}
_SMOOTH = {"16": "separable_conv2d", "8": "separable_conv2d_1", "4": "separable_conv2d_2"}
_BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # in each stage of the trunk
_DROPPED = {r"keypoint_offset\..+": "the head of the keypoints' offsets (kpt_offset_0), which no later stage reads"}
_OPTIONAL = {r"backbone\.project\..+": "the 1x1 convolutions from the neck to p2 .. p5, which are ours"}

_DTYPES = {"float32": "<f4", "int32": "<i4", "float16": "<f2"}


def convert_movenet_file(path: str) -> Conversion:
    """Read `movenet-multipose.json`, and the `.bin` files beside it that it names, as weights of our backbone."""
    tensors, dropped = split_off(movenet_state(path), _DROPPED)
    layout = Layout.closest({"MODEL.BACKBONE.NAME": "build_movenet_backbone"}, "backbone.")
    return layout.conversion(path, tensors, dropped, _OPTIONAL)


def movenet_state(path: str) -> dict[str, Tensor]:
    """All weights by our names and in PyTorch's layout: "backbone.", and "keypoint_offset." of the head that it lacks.

    path: of the .json file.
    """
    theirs, names = read_tfjs(path), file_names()
    if missing := [name for name in names.values() if name not in theirs]:
        lacks = f"it lacks {len(missing)} of its {len(names)} weights, first {missing[0]}"
        raise UserError(f"{path} is not MoveNet MultiPose: {lacks}")
    return {ours: _to_torch(theirs[name]) for ours, name in names.items()}


def _to_torch(tensor: Tensor) -> Tensor:
    """(height, width, in, out) or, depthwise, (height, width, channels, 1) -> (out, in / groups, height, width)."""
    if tensor.ndim < 4:
        return tensor
    depthwise = tensor.shape[3] == 1 and tensor.shape[:2] != (1, 1)
    return tensor.permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)).contiguous()


def read_tfjs(path: str) -> dict[str, Tensor]:
    """The tensors of a TensorFlow.js model, in float32, by their names in its file."""
    tensors = {}
    try:
        for group in json.loads(Path(path).read_bytes())["weightsManifest"]:
            data = b"".join(Path(path).with_name(name).read_bytes() for name in group["paths"])
            start = 0
            for entry in group["weights"]:
                dtype = _DTYPES[entry.get("quantization", entry)["dtype"]]
                array = np.frombuffer(data, dtype, math.prod(entry["shape"]), start).reshape(entry["shape"])
                start += array.nbytes
                tensors[entry["name"]] = torch.from_numpy(array.astype(np.float32))
    except OSError as error:
        advice = "give movenet-multipose.json, the .bin files beside it"
        raise UserError(f"cannot read {error.filename} ({error.strerror}); {advice}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no complete TensorFlow.js model ({error}); give movenet-multipose.json") from error
    return tensors


def file_names() -> dict[str, str]:
    """Our tensor's name -> the file's, for all but the convolutions to p2 .. p5."""
    convs = {"conv_stem": "Conv1/Conv2D", "conv_head": "Conv_1/Conv2D"}
    first, *blocks = (f"blocks.{stage}.{i}" for stage, number in enumerate(_BLOCKS) for i in range(number))
    convs[f"{first}.conv_dw"] = "expanded_conv_depthwise/depthwise"
    convs[f"{first}.conv_pw"] = "expanded_conv_project/Conv2D"
    for number, block in enumerate(blocks, start=1):
        for ours, theirs in (("pw", "expand/Conv2D"), ("dw", "depthwise/depthwise"), ("pwl", "project/Conv2D")):
            convs[f"{block}.conv_{ours}"] = f"block_{number}_{theirs}"
    names = {}
    for ours, theirs in convs.items():
        names[f"backbone.trunk.{ours}.weight"] = f"{_EXTRACTOR}model/{theirs}_weights"
        names[f"backbone.trunk.{ours}.bias"] = f"{_EXTRACTOR}model/{theirs}_bn_offset"
    for level, theirs in _LATERALS.items():
        names |= _conv(f"backbone.lateral.{level}", f"{_EXTRACTOR}{theirs}")
    for level, theirs in _SMOOTH.items():
        names[f"backbone.smooth.{level}.0.weight"] = f"{_EXTRACTOR}{theirs}/separable_conv2d/ReadVariableOp"
        names[f"backbone.smooth.{level}.1.weight"] = f"{_EXTRACTOR}{theirs}/separable_conv2d_weights"
        names[f"backbone.smooth.{level}.1.bias"] = f"{_EXTRACTOR}{theirs}/separable_conv2d_bn_offset"
    for number, (ours, theirs) in enumerate(_HEADS.items(), start=3):
        separable = f"{_ROOT}{theirs}/separable_conv2d_{number}"
        names[f"{ours}.0.weight"] = f"{separable}/separable_conv2d/ReadVariableOp"
        names[f"{ours}.1.weight"] = f"{separable}/separable_conv2d/ReadVariableOp_1"
        names[f"{ours}.1.bias"] = f"{separable}/BiasAdd/ReadVariableOp"
        names |= _conv(f"{ours}.3", f"{_ROOT}{theirs}/conv2d_{number + 1}")
    return names


def _conv(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.weight": f"{theirs}/Conv2D/ReadVariableOp", f"{ours}.bias": f"{theirs}/BiasAdd/ReadVariableOp"}
