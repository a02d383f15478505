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
    """A converted checkpoint and what there is to report about it.

    Attributes:
        state_dict: tensors by our names.
        dropped: reason -> names of the tensors that were left out.
        fresh: reason -> our names of tensors that the model has beyond the file's; training starts them at random.
        configs: files below `configs/` that describe the model, the first the one to use; empty where there is nothing
            to choose.
        overrides: `KEY`, `VALUE` .. that those configs need.
        notes: anything else, a sentence each.
    """

    state_dict: dict[str, Tensor]
    dropped: dict[str, list[str]] = field(default_factory=dict)
    fresh: dict[str, list[str]] = field(default_factory=dict)
    configs: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_tensors(path: str) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The state dict in a checkpoint, and what was left out of it: see `find_weights` and `read_checkpoint`."""
    return find_weights(read_checkpoint(path), path)


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


def load_backbone(
    path: str, kind: str, first: str, heads: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The tensors of a backbone in a checkpoint of a classifier, detector or pose estimator, in the file's naming.

    Args:
        kind: what the checkpoint should be, for messages.
        first: a tensor that every backbone of this kind has, without the prefix "backbone." that some files use.
        heads: pattern of the names of what is no part of the backbone -> what that is.

    Returns:
        tensors by name without that prefix, and what was left out: reason -> names.
    """
    loaded, dropped = load_tensors(path)
    if f"backbone.{first}" in loaded:
        loaded = {name.removeprefix("backbone."): tensor for name, tensor in loaded.items()}
    if first not in loaded:
        raise UserError(f"the checkpoint {path} does not match {kind}: it lacks {first}")
    tensors, others = split_off(loaded, heads)
    return tensors, {**dropped, **others}


def save_weights(state_dict: dict[str, Tensor], path: str, author: str) -> None:
    """Write weights atomically, never over another file; in PyTorch's format unless `path` ends in `.safetensors`.

    author: whose weights they are, for the log of whoever loads a PyTorch file.
    """
    check_output_file(path)
    with whole_file(path) as file:
        if path.endswith(".safetensors"):
            file.write(safetensors.torch.save({name: tensor.contiguous() for name, tensor in state_dict.items()}))
        else:
            torch.save({"model": state_dict, "__author__": author}, file)
