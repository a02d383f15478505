"""Checkpoints of any origin: read without running code in them, and the model's weights found in them."""

import contextlib
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, TypeGuard

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from safetensors.torch import load_file
from torch import Tensor

from querypose.errors import UserError

# where trainers put the averaged (EMA) weights, and where the plain ones, in a checkpoint; the first that is there
# counts, and averaged ones are what a run with SOLVER.EMA evaluates
_AVERAGED = ("ema_state", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "ema")
_PLAIN = ("model", "state_dict", "model_state_dict", "model_state", "state", "module", "shadow", "blobs")

# put before every name by data-parallel training, averaging, and compilation
_PREFIXES = re.compile(r"^(?:(?:module|model|_orig_mod|ema|model_ema|ema_model)\.)*")

# in the names of parameters with activation checkpointing, not in those of the state dict
_WRAPPED = "_checkpoint_wrapped_module."


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for `.pth`, `.safetensors` and `.pkl` files of any origin and wrapping.

    With `must_fit`, weights of another shape, or without parameters that inference needs, are refused. Detectron2 only
    logs them, which suits a training run that starts from a backbone.
    """

    must_fit = False

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load `path` and return what else it holds; raise `UserError` if it is damaged, holds code or no weights."""
        try:
            return super().load(path, *args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # network, zip, names, shapes: each its own; a user needs the file's name
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"cannot load the weights {path} ({reason}); give a checkpoint in MODEL.WEIGHTS") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename)
        names = self.model.state_dict().keys()
        weights = find_weights(content, filename, names)
        rest = content if isinstance(content, dict) and "model" in content else {}
        # Caffe2's and Detectron1's files hold the weights alone, under their own names
        if filename.endswith(".pkl") and not rest and not weights.keys() & names:
            rest = {"__author__": "Caffe2", "matching_heuristics": True}
        return {**rest, "model": weights}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        parameters = {name.replace(_WRAPPED, ""): value for name, value in self.model.named_parameters()}
        missing = [name.replace(_WRAPPED, "") for name in incompatible.missing_keys]
        misshapen = incompatible.incorrect_shapes
        if not self.must_fit:
            if parameters and parameters.keys() <= {*missing, *(name for name, _, _ in misshapen)}:
                raise UserError(
                    "the weights are another model's: none of them has the name and the shape of one of this model's "
                    f"{len(parameters)}, such as {next(iter(parameters))}; give the config that they were trained with"
                )
            return incompatible._replace(missing_keys=missing)
        # statistics of norms count; the losses and their flow have no part in inference
        state = {name.replace(_WRAPPED, ""): value for name, value in self.model.state_dict().items()}
        needed = [name for name in state if state[name].is_floating_point() and not name.startswith("criterion.")]
        missing = [name for name in needed if name in missing]
        unused = [name for name in incompatible.unexpected_keys if name.startswith("decoder.")]
        misshapen = [f"{name}, {tuple(found)} instead of {tuple(wanted)}" for name, found, wanted in misshapen]
        not_finite = [name for name, value in state.items() if not value.isfinite().all()]
        for fault, names in (
            (f"{len(misshapen)} of the weights have another shape than the model's", misshapen),
            (f"the weights lack {len(missing)} of the model's {len(needed)} tensors", missing),
            (f"{len(unused)} of the weights have no place in the model", unused),
            (f"{len(not_finite)} of the weights hold NaN or infinity", not_finite),
        ):
            if names:
                raise UserError(f"{fault}, first {names[0]}; give the weights of a trained model, and its config")
        return incompatible._replace(missing_keys=[])


def read_checkpoint(path: str) -> Any:
    """The content of a `.safetensors` file, of a `.pkl` of arrays, or else of a file of `torch.save`, on the CPU.

    Raises `UserError` for a file that is missing, damaged or holds more than tensors, arrays, numbers and strings.
    """
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        if path.endswith(".pkl") and not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                return _ArrayUnpickler(file, encoding="latin1").load()
        # NumPy's arrays and numbers too; before PyTorch 2.6, checkpoints that hold them are refused
        numpy: Any = [(stand_in, name) for name, stand_in in _NUMPY.items()]
        with torch.serialization.safe_globals(numpy) if torch.__version__ >= "2.6" else contextlib.nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise many kinds
        raise UserError(f"cannot read the checkpoint {path}: {_why_not(error, path)}") from error


def _why_not(error: Exception, path: str) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}; check the path"
    # PyTorch's error names the class in its text alone
    if code := re.search(r"(?:GLOBAL|[Uu]nsupported class)[: ]+(\w[\w.]*)", str(error)):
        return f"loading it would run code ({code[1]}); where you trust its source, save the state dict alone first"
    with open(path, "rb") as file:
        start = file.read(30)
    return f"it is damaged, cut off or of another format (it begins with {start!r}); fetch or save it again"


def find_weights(content: Any, path: str, model_names: Collection[str] = ()) -> dict[str, Tensor]:
    """The state dict in a checkpoint's content, without wrappers and prefixes; averaged weights before plain ones.

    Names in `model_names` stay as they are; `path` is for messages. Raises `UserError` for no state dict, or two
    tensors of the same name.
    """
    weights: dict[str, Tensor] = {}
    for keys in (_PLAIN, _AVERAGED):  # averaging often leaves buffers to the plain model
        found: dict[str, Tensor] = {}
        for name, tensor in _state_dict(content, keys).items():
            # a compiled part of a model has `_orig_mod` inside of its names
            bare = name if name in model_names else _PREFIXES.sub("", name).replace("._orig_mod.", ".")
            if bare in found:
                raise UserError(f"the checkpoint {path} holds two tensors {bare}; save one model alone")
            if bare not in ("n_averaged", "decay", "num_updates"):  # an averaging's own numbers
                found[bare] = torch.as_tensor(tensor)
        weights |= found
    if not weights:
        advice = "give a state dict, bare or under 'model', 'state_dict' or 'ema'"
        raise UserError(f"the checkpoint {path} holds no weights by name; {advice}")
    return weights


def _state_dict(content: Any, keys: tuple[str, ...]) -> dict[str, Tensor]:
    """The content itself or the first state dict under one of `keys`, below further wrappers or not; else empty."""
    if _is_state_dict(content):
        return content
    for inner in [content.get(key) for key in keys] if isinstance(content, dict) else []:
        if found := _state_dict(inner, _PLAIN):
            return found
    return {}


def _is_state_dict(value: Any) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, Tensor | np.ndarray) for name, item in value.items())
    )


class _Dtype:
    """Stands for `numpy.dtype(letters, ..)` while a pickle is read; its state may only tell the order of the bytes."""

    def __init__(self, letters: str, *_: Any):
        self.dtype = np.dtype(letters)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError("it holds an array of something else than numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def numbers(self, data: Any, shape: tuple[int, ...], order: Any) -> np.ndarray:
        """An array of its own memory; `data` is text where Python 2 wrote the pickle."""
        data = data.encode("latin1") if isinstance(data, str) else bytes(data)
        array = np.frombuffer(data, self.dtype).astype(self.dtype.newbyteorder("="))
        return array.reshape(shape, order=order)


class _Array(np.ndarray):
    """A numpy array while a pickle is read, empty until its state comes."""

    def __new__(cls, *_: Any) -> "_Array":
        return super().__new__(cls, 0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, data = state
        super().__setstate__(dtype.numbers(data, shape, "F" if fortran_order else "C").__reduce__()[2])


# numpy's names, and what is called in their place, because its own `__setstate__` trusts the file
_NUMPY: dict[str, Callable[..., Any]] = {"numpy.ndarray": _Array, "numpy.dtype": _Dtype}
for _core in ("numpy.core", "numpy._core"):
    _NUMPY[f"{_core}.multiarray._reconstruct"] = _Array
    _NUMPY[f"{_core}.multiarray.scalar"] = lambda dtype, data: dtype.numbers(data, (), "C").item()
    _NUMPY[f"{_core}.numeric._frombuffer"] = lambda data, dtype, shape, order: dtype.numbers(data, shape, order)

_ALLOWED: dict[str, Callable[..., Any]] = {
    **_NUMPY,
    # how Python 3 writes bytes, and no bytes, for Python 2
    "_codecs.encode": lambda text, _: str.encode(text, "latin1"),
    "__builtin__.bytes": lambda: b"",
    "collections.OrderedDict": OrderedDict,
}


class _ArrayUnpickler(pickle.Unpickler):
    """For Detectron2's `.pkl` files, plain pickles of any protocol, which `torch.load` does not read."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        stand_in = _ALLOWED.get(f"{module}.{name}")
        if stand_in is None:
            raise pickle.UnpicklingError(f"Unsupported class {module}.{name}")  # in PyTorch's words
        # a new function each time: a pickle may set attributes of what it calls
        return lambda *args: stand_in(*args)
