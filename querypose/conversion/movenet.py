"""The published TensorFlow.js files of MoveNet MultiPose, for the backbone of that name."""

import json
import math
import os

import numpy as np
import torch
from torch import Tensor

from querypose.conversion.files import Conversion
from querypose.conversion.layout import Layout, enumerate_names
from querypose.errors import UserError

_ROOT = "StatefulPartitionedCall/"
_EXTRACTOR = f"{_ROOT}center_net_mobile_net_v2fpn_feature_extractor/model_1/"

# our layer -> (the file's layer, the number that its separable convolution is counted by; the last convolution's is
# one more)
_HEADS = {
    "center": ("center_0", 3),
    "size": ("box_scale_0", 4),
    "offset": ("box_offset_0", 5),
    "heatmaps": ("kpt_heatmap_0", 6),
    "regression": ("kpt_regress_0", 7),
}
# blocks in each stage of the trunk
_BLOCKS = (1, 2, 3, 4, 3, 3, 1)
_LATERALS = {"4": "conv2d_3", "8": "conv2d_2", "16": "conv2d_1", "32": "conv2d"}
_SMOOTH = {"16": "separable_conv2d", "8": "separable_conv2d_1", "4": "separable_conv2d_2"}
_DROPPED = "the head of the keypoints' offsets (kpt_offset_0), which no later stage reads"
_OPTIONAL = {r"backbone\.project\..+": "the 1x1 convolutions from the neck to p2 .. p5, which are ours"}

_DTYPES = {"float32": "<f4", "int32": "<i4", "float16": "<f2"}


def convert_movenet_file(path: str) -> Conversion:
    """Read `movenet-multipose.json`, and the `.bin` beside it that it names, as weights of our backbone.

    Raises:
        UserError: a file that is missing, cut off, or not exactly MoveNet MultiPose.
    """
    theirs = read_tfjs(path)
    names = _file_names()
    missing = [name for name in names.values() if name not in theirs]
    if missing:
        raise UserError(
            f"{path} is not MoveNet MultiPose: it lacks {len(missing)} of its {len(names)} weights "
            f"({enumerate_names(missing, 3)}); give movenet-multipose.json"
        )
    layout = Layout.closest({"MODEL.BACKBONE.NAME": "build_movenet_backbone"}, "backbone.")
    tensors = {f"backbone.{ours}": _to_torch(theirs[name]) for ours, name in names.items()}
    dropped = [name for name in theirs if name.startswith(f"{_ROOT}kpt_offset_0/")]
    return layout.conversion(path, tensors, {_DROPPED: dropped} if dropped else {}, _OPTIONAL)


def _to_torch(tensor: Tensor) -> Tensor:
    """(height, width, in, out) or, depthwise, (height, width, channels, 1) -> (out, in / groups, height, width)."""
    if tensor.ndim < 4:
        return tensor
    depthwise = tensor.shape[3] == 1 and tensor.shape[:2] != (1, 1)
    return tensor.permute(2, 3, 0, 1).contiguous() if depthwise else tensor.permute(3, 2, 0, 1).contiguous()


def read_tfjs(path: str) -> dict[str, Tensor]:
    """The float tensors of a TensorFlow.js model, in float32, by their names in its file.

    Raises:
        UserError: no such file, no manifest of weights in it, binary files that are missing or of another length, or
            weights in integers.
    """
    try:
        with open(path, encoding="utf-8") as file:
            groups = json.load(file)["weightsManifest"]
        layouts = [(list(group["paths"]), [_layout(entry) for entry in group["weights"]]) for group in groups]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give movenet-multipose.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no TensorFlow.js model: it has no readable 'weightsManifest' ({error}); give "
            "movenet-multipose.json"
        ) from error
    tensors = {}
    for paths, layout in layouts:
        data = b"".join(_read_binary(os.path.join(os.path.dirname(path), name), path) for name in paths)
        expected = sum(count * np.dtype(dtype).itemsize for _, _, dtype, count in layout)
        if len(data) != expected:
            raise UserError(
                f"{', '.join(paths)} beside {path} has {len(data)} bytes instead of {expected}; fetch both files "
                "again, from the same package"
            )
        start = 0
        for name, shape, dtype, count in layout:
            array = np.frombuffer(data, dtype, count, start).reshape(shape)
            start += array.nbytes
            if array.dtype.kind == "f":
                tensors[name] = torch.from_numpy(array.astype(np.float32))
    return tensors


def _layout(entry: dict) -> tuple[str, tuple[int, ...], str, int]:
    """A tensor's name, shape, numpy's name of its numbers, and how many they are."""
    shape = tuple(int(side) for side in entry["shape"])
    return entry["name"], shape, _DTYPES[entry.get("quantization", entry)["dtype"]], math.prod(shape)


def _read_binary(name: str, path: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(
            f"{path} names {os.path.basename(name)} for its weights, which cannot be read beside it "
            f"({error.strerror}); put both files of the package into one folder"
        ) from error


def _file_names() -> dict[str, str]:
    """Our tensor's name -> the file's, for all but the convolutions to p2 .. p5."""
    convs = {"trunk.conv_stem": "Conv1/Conv2D", "trunk.conv_head": "Conv_1/Conv2D"}
    first, *blocks = (f"trunk.blocks.{stage}.{i}" for stage, number in enumerate(_BLOCKS) for i in range(number))
    convs |= {
        f"{first}.conv_dw": "expanded_conv_depthwise/depthwise",
        f"{first}.conv_pw": "expanded_conv_project/Conv2D",
    }
    for number, block in enumerate(blocks, start=1):
        convs |= {
            f"{block}.conv_pw": f"block_{number}_expand/Conv2D",
            f"{block}.conv_dw": f"block_{number}_depthwise/depthwise",
            f"{block}.conv_pwl": f"block_{number}_project/Conv2D",
        }
    names = {}
    for ours, theirs in convs.items():
        names[f"{ours}.weight"] = f"{_EXTRACTOR}model/{theirs}_weights"
        names[f"{ours}.bias"] = f"{_EXTRACTOR}model/{theirs}_bn_offset"
    for level, theirs in _LATERALS.items():
        names |= _conv(f"lateral.{level}", f"{_EXTRACTOR}{theirs}")
    for level, theirs in _SMOOTH.items():
        names[f"smooth.{level}.0.weight"] = f"{_EXTRACTOR}{theirs}/separable_conv2d/ReadVariableOp"
        names[f"smooth.{level}.1.weight"] = f"{_EXTRACTOR}{theirs}/separable_conv2d_weights"
        names[f"smooth.{level}.1.bias"] = f"{_EXTRACTOR}{theirs}/separable_conv2d_bn_offset"
    for head, (theirs, number) in _HEADS.items():
        separable = f"{_ROOT}{theirs}/separable_conv2d_{number}"
        names[f"heads.{head}.0.weight"] = f"{separable}/separable_conv2d/ReadVariableOp"
        names[f"heads.{head}.1.weight"] = f"{separable}/separable_conv2d/ReadVariableOp_1"
        names[f"heads.{head}.1.bias"] = f"{separable}/BiasAdd/ReadVariableOp"
        names |= _conv(f"heads.{head}.3", f"{_ROOT}{theirs}/conv2d_{number + 1}")
    return names


def _conv(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.weight": f"{theirs}/Conv2D/ReadVariableOp", f"{ours}.bias": f"{theirs}/BiasAdd/ReadVariableOp"}
