"""What a converter returns, and the files that it reads and writes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import safetensors.torch
import torch
from torch import Tensor

from querypose.atomic_io import check_output_file, whole_file
from querypose.errors import UserError
from querypose.safe_loading import find_weights, read_checkpoint


@dataclass
class Conversion:
    """A converted checkpoint and what there is to report about it."""

    state_dict: dict[str, Tensor]  # by our names
    dropped: dict[str, list[str]] = field(default_factory=dict)  # reason -> names of the tensors that were left out
    fresh: dict[str, list[str]] = field(default_factory=dict)  # what -> our names of those that the file lacks
    configs: list[str] = field(default_factory=list)  # files below `configs/` that describe it, the plainest first
    overrides: list[str] = field(default_factory=list)  # KEY, VALUE .. that those configs need
    notes: list[str] = field(default_factory=list)  # other sentences


def load_tensors(path: str, reasons: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The state dict in a checkpoint, and what was left out of it, see `find_weights` and `split_off`."""
    loaded, dropped = find_weights(read_checkpoint(path), path)
    kept, others = split_off(loaded, reasons)
    return kept, {**dropped, **others}


def split_off(
    tensors: Mapping[str, Tensor], reasons: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Leave out tensors; `reasons`: pattern of their names -> why. Returns the others, and reason -> names."""
    kept: dict[str, Tensor] = {}
    dropped: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        reason = next((reason for pattern, reason in reasons.items() if re.fullmatch(pattern, name)), None)
        if reason:
            dropped.setdefault(reason, []).append(name)
        else:
            kept[name] = tensor
    return kept, dropped


def publishable_weights(path: str) -> Conversion:
    """The tensors of one of our training checkpoints that inference needs, floating ones in half precision."""
    tensors, dropped = load_tensors(path, {r"criterion\..+": "the losses (criterion), which inference does not need"})
    return Conversion(_in_type(tensors, torch.float16), dropped)


def backbone_of(path: str) -> Conversion:
    """The backbone and its FPN of one of our checkpoints, in float32, for any model with the same backbone."""
    tensors, dropped = load_tensors(path, {r"(?!backbone\.).+": "what is not of the backbone"})
    if not tensors:
        raise UserError(f"{path} has no tensor named backbone.*; give a checkpoint or weights of a QueryPose")
    return Conversion(_in_type(tensors, torch.float32), dropped)


def _in_type(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def save_weights(state_dict: dict[str, Tensor], path: str, author: str) -> None:
    """Write weights atomically, never over another file; in PyTorch's format unless `path` ends in `.safetensors`."""
    check_output_file(path)
    with whole_file(path) as file:
        if path.endswith(".safetensors"):
            file.write(safetensors.torch.save({name: tensor.contiguous() for name, tensor in state_dict.items()}))
        else:
            torch.save({"model": state_dict, "__author__": author}, file)
