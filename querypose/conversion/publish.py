"""Weights for publication from a training checkpoint, and its backbone alone to start other models from."""

from collections.abc import Mapping

import torch

from querypose.conversion.files import Conversion, load_tensors, split_off
from querypose.errors import UserError


def publishable_weights(path: str) -> Conversion:
    """The tensors of one of our training checkpoints that inference needs, floating ones in half precision."""
    return _part_of(path, {r"criterion\..+": "the losses (criterion), which inference does not need"}, torch.float16)


def backbone_of(path: str) -> Conversion:
    """The backbone and its FPN of one of our checkpoints, in float32, for any model with the same backbone."""
    conversion = _part_of(path, {r"(?!backbone\.).+": "what is not of the backbone"}, torch.float32)
    if not conversion.state_dict:
        raise UserError(f"{path} has no tensor named backbone.*; give a checkpoint or weights of a QueryPose")
    return conversion


def _part_of(path: str, reasons: Mapping[str, str], dtype: torch.dtype) -> Conversion:
    tensors, dropped = load_tensors(path)
    kept, others = split_off(tensors, reasons)
    converted = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in kept.items()}
    return Conversion(converted, {**dropped, **others})
