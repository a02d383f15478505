"""Reading checkpoints of any wrapping without running code in them, and writing one whole or not at all."""

import os
import re
import tempfile
from dataclasses import dataclass, field

import torch
from torch import Tensor

from querypose.errors import UserError
from querypose.safe_loading import load_tensor_file

# where trainers put the averaged (EMA) weights, and where the plain ones, in a checkpoint; the first that is there
# counts, and averaged ones are what a training with them is evaluated with
_AVERAGED = ("ema_state", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "ema")
_PLAIN = ("model", "state_dict", "model_state_dict", "model_state", "state", "module", "shadow")

# put before every name by data-parallel training, averaging, and compilation
_PREFIXES = re.compile(r"(?:(?:module|model|_orig_mod|ema|model_ema|ema_model)\.)*")

# an averaging's own numbers, saved among its tensors
_AVERAGING_STATE = re.compile(r"(?:.+\.)?(?:n_averaged|num_updates|decay)")

PLAIN_WEIGHTS = "plain weights, for which the averaged (EMA) ones of the same file stand in"


@dataclass
class Conversion:
    """A converted checkpoint and what there is to tell about it.

    state_dict: tensors by our names.
    dropped: reason -> names of the tensors that were left out.
    fresh: reason -> our names of tensors that the model has beyond the file's, which training starts at random.
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
    """The state dict in a checkpoint, its wrappers and prefixes removed, without running any code in the file.

    Returns:
        tensors by name, and what was left out of the file's weights: reason -> names.

    Raises:
        UserError: a file that is missing, holds code, or no state dict.
    """
    content = load_tensor_file(path)
    averaged = _state_dict(content, _AVERAGED)
    plain = _state_dict(content, _PLAIN)
    if averaged is None and plain is None:
        plain = content if _is_state_dict(content) else None
    if averaged is None and plain is None:
        raise UserError(f"the checkpoint '{path}' holds no state dict of tensors; give one that holds a model")
    return _merge(plain or {}, averaged or {}, path)


def save_whole(state_dict: dict[str, Tensor], path: str, author: str) -> None:
    """Write a checkpoint that Detectron2 reads; never over another file, and never half of it.

    Raises:
        UserError: `path` exists, or its folder does not.
    """
    check_free(path)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".convert-", suffix=".pth")
    os.close(handle)
    try:
        torch.save({"model": state_dict, "__author__": author}, temporary)
        # mkstemp's file is for its owner alone: give it the permissions of any new file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        check_free(path)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def check_free(path: str) -> None:
    """Raise a UserError unless `path` can be written as a new file."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists already; remove it or name another file")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise UserError(f"the folder '{folder}' of the output does not exist; create it first")


def _is_state_dict(value) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _state_dict(content, keys: tuple[str, ...]) -> dict[str, Tensor] | None:
    """The state dict under the first of `keys` that `content` has, looked for one wrapper further where needed."""
    if not isinstance(content, dict):
        return None
    for key in keys:
        inner = content.get(key)
        if _is_state_dict(inner):
            return inner
        if (further := _state_dict(inner, _PLAIN)) is not None:
            return further
    return None


def _merge(plain: dict, averaged: dict, path: str) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Names without prefixes; averaged tensors before plain ones, which keep what the averaging leaves out."""
    merged: dict[str, Tensor] = {}
    replaced, bookkeeping = [], []
    from_average: dict[str, bool] = {}
    for tensors, is_average in ((plain, False), (averaged, True)):
        for name, tensor in tensors.items():
            if _AVERAGING_STATE.fullmatch(name):
                bookkeeping.append(name)
                continue
            prefix = _PREFIXES.match(name).group()
            bare, average = name[len(prefix) :], is_average or "ema" in prefix
            if bare not in merged:
                merged[bare], from_average[bare] = tensor, average
            elif average == from_average[bare]:
                raise UserError(f"the checkpoint '{path}' holds two tensors {bare}; save one model alone")
            else:
                replaced.append(bare)
                if average:
                    merged[bare], from_average[bare] = tensor, True
    dropped = {PLAIN_WEIGHTS: replaced, "the averaging's own state": bookkeeping}
    return merged, {reason: names for reason, names in dropped.items() if names}
