"""Checkpoints of any origin: read without running code in them, and the model's weights found in them."""

import contextlib
import os
import pickle
import re
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from safetensors.torch import load_file
from torch import Tensor

from querypose.array_pickle import NUMPY_STAND_INS, load_array_pickle, with_arrays
from querypose.errors import UserError

# where trainers put the averaged (EMA) weights, and where the plain ones, in a checkpoint; the first that is there
# counts, and averaged ones are what a run with SOLVER.EMA evaluates
_AVERAGED = ("ema_state", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "ema")
_PLAIN = ("model", "state_dict", "model_state_dict", "model_state", "state", "module", "shadow")

# put before every name by data-parallel training, averaging, and compilation
_PREFIXES = re.compile(r"^(?:(?:module|model|_orig_mod|ema|model_ema|ema_model)\.)*")

# an averaging's own numbers, saved among its tensors
_AVERAGING_STATE = re.compile(r"(?:.+\.)?(?:n_averaged|num_updates|decay)")

# the losses, with their flow, have no part in inference: weights may come without them
_TRAINING_ONLY = "criterion."

# in the names of parameters with activation checkpointing, not in those of the state dict
_WRAPPED = "_checkpoint_wrapped_module."

PLAIN_WEIGHTS = "plain weights, replaced by the averaged (EMA) ones of the same file"


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for `.pth`, `.safetensors` and `.pkl` files of any origin and wrapping.

    Attributes:
        must_fit: whether weights of another shape, and weights without some of the parameters that inference needs, are
            refused. Detectron2 only logs them, which suits a training run that starts from a backbone.
    """

    must_fit = False

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load `path` into the model and the other objects; an empty one loads nothing.

        Returns:
            what else the checkpoint holds.

        Raises:
            UserError: a file that cannot be had, is damaged, holds code, or holds nothing of the model's.
        """
        try:
            return super().load(path, *args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # network, zip, names, shapes: each its own; a user needs the file's name
            raise UserError(
                f"cannot load the weights {path} ({type(error).__name__}: {_first_line(error)}); "
                "give a checkpoint in MODEL.WEIGHTS"
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename)
        if not filename.endswith(".pkl"):
            weights, _ = find_weights(content, filename, self.model.state_dict().keys())
            return {**(content if isinstance(content, dict) and "model" in content else {}), "model": weights}
        if not (isinstance(content, dict) and {"model", "__author__"} <= content.keys()):
            # Caffe2's and Detectron1's: detection models keep their weights under "blobs", others have them bare
            arrays = content.get("blobs", content) if isinstance(content, dict) else None
            if isinstance(arrays, dict):
                arrays = {name: array for name, array in arrays.items() if not str(name).endswith("_momentum")}
            content = {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}
        if not _is_state_dict(content["model"]):
            raise UserError(f"the checkpoint {filename} holds no weights by name; give one of Detectron2's model zoo")
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        missing = [name.replace(_WRAPPED, "") for name in incompatible.missing_keys]
        parameters = [name.replace(_WRAPPED, "") for name, _ in self.model.named_parameters()]
        misshapen = incompatible.incorrect_shapes
        if not self.must_fit:
            if parameters and {*missing, *(name for name, _, _ in misshapen)}.issuperset(parameters):
                raise UserError(
                    "the weights are another model's: none of them has the name and the shape of one of this model's "
                    f"{len(parameters)}, such as {parameters[0]}; give the config that they were trained with"
                )
            return incompatible._replace(missing_keys=missing)
        if misshapen:
            name, found, wanted = misshapen[0]
            raise UserError(
                f"{len(misshapen)} of the weights have another shape than the model's, first {name}, {tuple(found)} "
                f"instead of {tuple(wanted)}; give the config that they were trained with"
            )
        needed = {name for name in parameters if not name.startswith(_TRAINING_ONLY)}
        missing = [name for name in missing if name in needed]
        if missing:
            raise UserError(
                f"the weights lack {len(missing)} of the model's {len(needed)} parameters, first {missing[0]}; give "
                "the weights of a whole trained model, and the config that they were trained with"
            )
        not_finite = [name for name, value in self.model.named_parameters() if not value.isfinite().all()]
        if not_finite:
            raise UserError(
                f"{len(not_finite)} of the weights hold NaN or infinity, first {not_finite[0]}: their training failed; "
                "give weights from before"
            )
        # what else is missing is the losses', of no use here: nothing to report
        return incompatible._replace(missing_keys=[])


def _numpy_numbers_allowed() -> contextlib.AbstractContextManager[Any]:
    """Let `torch.load` read NumPy's numbers; before PyTorch 2.6 it refuses checkpoints that hold them."""
    if torch.__version__ < "2.6":
        return contextlib.nullcontext()
    return torch.serialization.safe_globals([(function, name) for name, function in NUMPY_STAND_INS.items()])


def read_checkpoint(path: str) -> Any:
    """The content of a `.safetensors` file, of a `.pkl` of arrays, or else of a file of `torch.save`, on the CPU.

    Raises:
        UserError: a file that does not exist, is damaged, or holds anything but tensors, arrays, numbers, strings and
            containers of them.
    """
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        if path.endswith(".pkl"):
            with open(path, "rb") as file:
                return load_array_pickle(file)
        with _numpy_numbers_allowed():
            return with_arrays(torch.load(path, map_location="cpu", weights_only=True))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reason = error.strerror or "No such file or directory"
        raise UserError(f"cannot read the checkpoint {path} ({reason}); check the path") from error
    except Exception as error:  # damaged files raise many kinds
        # PyTorch's error names the class in its text alone
        code = re.search(r"(?:GLOBAL|[Uu]nsupported class)[: ]+(\w[\w.]*)", str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            raise UserError(
                f"cannot read the checkpoint {path}: loading it would run code ({code[1]}); where you trust its "
                "source, save the state dict alone first"
            ) from error
        kind = {".safetensors": "safetensors file", ".pkl": "pickle of arrays"}.get(os.path.splitext(path)[1])
        raise UserError(
            f"cannot read the checkpoint {path}: it is damaged, cut off or no {kind or 'file of torch.save'} "
            f"({_reason(error, path)}); fetch or save it again"
        ) from error


def find_weights(
    content: Any, path: str, model_names: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The state dict in a checkpoint's content, without wrappers and prefixes; averaged weights before plain ones.

    Args:
        content: of `read_checkpoint`.
        path: of the file, for messages.
        model_names: of the model's tensors, where it is known; they stay as they are.

    Returns:
        tensors by name, and what was dropped of the file's weights: reason -> names.

    Raises:
        UserError: no state dict, or one with two tensors of the same name.
    """
    averaged_found, plain_found = _state_dict(content, _AVERAGED), _state_dict(content, _PLAIN)
    if averaged_found is None and plain_found is None:
        if not _is_state_dict(content):
            raise UserError(
                f"the checkpoint {path} holds no weights but {_describe(content)}; give a state dict, bare or under "
                "'model', 'state_dict' or 'ema'"
            )
        plain_found = content
    plain: dict[str, Tensor] = {}
    averaged: dict[str, Tensor] = {}
    bookkeeping = []
    for tensors, is_average in ((plain_found or {}, False), (averaged_found or {}, True)):
        for name, tensor in tensors.items():
            if _AVERAGING_STATE.fullmatch(name):
                bookkeeping.append(name)
                continue
            bare = name if name in model_names else _PREFIXES.sub("", name)
            found = averaged if is_average or "ema" in name.removesuffix(bare) else plain
            # a compiled part of a model has this inside of its names
            bare = bare.replace("._orig_mod.", ".")
            if bare in found:
                raise UserError(f"the checkpoint {path} holds two tensors {bare}; save one model alone")
            found[bare] = torch.as_tensor(tensor)
    dropped = {PLAIN_WEIGHTS: [name for name in plain if name in averaged], "state of the averaging": bookkeeping}
    return {**plain, **averaged}, {reason: names for reason, names in dropped.items() if names}


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, Tensor | np.ndarray) for name, item in value.items())
    )


def _state_dict(content: Any, keys: tuple[str, ...]) -> dict[str, Tensor] | None:
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


def _describe(content: Any) -> str:
    """What is found where weights should be."""
    keys = f" of {', '.join(map(str, content))}" if isinstance(content, dict) and content else ""
    return f"a {type(content).__name__}{keys[:100]}"


def _reason(error: Exception, path: str) -> str:
    """Why a file cannot be read; PyTorch's advice on `weights_only` says nothing of the file itself."""
    with open(path, "rb") as file:
        start = file.read(30)
    if start and "weights_only" not in str(error):
        return _first_line(error)
    return f"it begins with {start!r}" if start else "it is empty"


def _first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters of it."""
    return (str(error).splitlines() or [""])[0][:200]
