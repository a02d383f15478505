"""Checkpoints read without running any code in them: tensors, numpy arrays, numbers, strings and their containers."""

import pickle
import re
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from querypose.errors import UserError

# kinds of numbers, by numpy's letters, that weights can be made of
_NUMBERS = re.compile(r"[?bBhHiIlLqQefd]|[fiu][1248]|b1")
# the losses, with their flow, have no part in inference: weights may come without them
_TRAINING_ONLY = "criterion."
# containers within containers in the deepest honest file: model, optimiser, its state, a parameter's, a value
_MAX_DEPTH = 16


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for files of any origin.

    What PyTorch wrote is read with `weights_only`, and `.pkl` files of the model zoo, which are pickles of numpy
    arrays, as such and nothing else.

    Attributes:
        must_fit: whether weights of another shape, and weights without some of the parameters that inference needs, are
            refused. Detectron2 only logs them, which suits a training that starts from a backbone.
    """

    must_fit = False

    def load(self, path, *args, **kwargs):
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
                f"cannot load the weights {path} ({type(error).__name__}: {first_line(error)}); "
                "give a checkpoint in MODEL.WEIGHTS"
            ) from error

    def _load_file(self, filename):
        try:
            content = _read_arrays(filename) if filename.endswith(".pkl") else _read_tensors(filename)
        except _Unreadable as error:
            raise UserError(f"cannot load the weights {filename}: {error}") from error
        # where the weights are, by the programs that write each kind of file
        if filename.endswith(".pyth"):
            weights = content.get("model_state") if isinstance(content, dict) else None
            if isinstance(weights, dict):
                weights = {name: value for name, value in weights.items() if not str(name).endswith("_batches_tracked")}
            content = {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        elif filename.endswith(".pkl") and not (
            isinstance(content, dict) and {"model", "__author__"} <= content.keys()
        ):
            # Caffe2's and Detectron1's: detection models keep their weights under "blobs", others have them bare
            arrays = content.get("blobs", content) if isinstance(content, dict) else None
            if isinstance(arrays, dict):
                arrays = {name: array for name, array in arrays.items() if not str(name).endswith("_momentum")}
            content = {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}
        elif not isinstance(content, dict) or "model" not in content:
            content = {"model": content}
        return self._checked(content, filename)

    @staticmethod
    def _checked(content: dict, filename: str) -> dict:
        weights = content["model"]
        if not isinstance(weights, dict) or not weights:
            raise UserError(f"the checkpoint {filename} holds no weights; give one that holds a model's state dict")
        for name, value in weights.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor | np.ndarray):
                raise UserError(
                    f"the checkpoint {filename} holds {type(value).__name__} under {str(name)[:60]!r} where weights "
                    "should be; give one that holds a model's state dict"
                )
        return content

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        parameters = [name for name, _ in self.model.named_parameters()]
        misfits = {*incompatible.missing_keys, *(name for name, _, _ in incompatible.incorrect_shapes)}
        if not self.must_fit:
            if parameters and misfits.issuperset(parameters):
                raise UserError(
                    "the weights are another model's: none of them has the name and the shape of one of this model's "
                    f"{len(parameters)}, of which the first is {parameters[0]}; give the config that they were "
                    "trained with"
                )
            return incompatible
        if incompatible.incorrect_shapes:
            name, found, wanted = incompatible.incorrect_shapes[0]
            raise UserError(
                f"{len(incompatible.incorrect_shapes)} of the weights have not the model's shape, first "
                f"{name}, {tuple(found)} instead of {tuple(wanted)}; "
                "give the config that they were trained with."
            )
        needed = {name for name in parameters if not name.startswith(_TRAINING_ONLY)}
        missing = [name for name in incompatible.missing_keys if name in needed]
        if missing:
            raise UserError(
                f"the weights lack {len(missing)} of the model's {len(needed)} parameters, first "
                f"{missing[0]}; give the weights of a whole trained model, and the config "
                "that they were trained with."
            )
        # what is left is the losses', of no use here: nothing to report
        return incompatible._replace(missing_keys=[name for name in incompatible.missing_keys if name in needed])


def load_tensor_file(path: str) -> Any:
    """The content of a file of `torch.save`, on the CPU: tensors, numbers, strings and containers of them.

    Raises:
        UserError: a file that does not exist, is damaged, or holds anything else, which reading would mean to run.
    """
    try:
        return _read_tensors(path)
    except FileNotFoundError as error:
        raise UserError(f"the checkpoint '{path}' does not exist; check the path") from error
    except _Unreadable as error:
        raise UserError(f"the checkpoint '{path}' cannot be read as plain tensors: {error}") from error


def _read_tensors(path: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds for damaged files
        code = re.search(r"(?:GLOBAL|[Uu]nsupported class)[: ]+(\w[\w.]*)", str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            raise _holds_code(code.group(1)) from error
        if isinstance(error, IsADirectoryError | PermissionError):
            raise _Unreadable(f"{error.strerror}; give a file of torch.save") from error
        raise _Unreadable("it is damaged, cut off or no file of torch.save; fetch or save it again") from error


def _read_arrays(path: str) -> Any:
    """The content of a pickle (`.pkl`) of numpy arrays, numbers, strings and containers of them.

    The arrays are made here from their bytes: of the functions that a pickle can name none is called, numpy's own
    included, which trust what they are given.
    """
    try:
        with PathManager.open(path, "rb") as file:
            return _finished(_ArrayUnpickler(file, encoding="latin1").load())
    except _Unreadable:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = first_line(error) or "it is empty"
        raise _Unreadable(f"it is damaged or no pickle of arrays ({reason}); fetch it again") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters of it."""
    return (str(error).splitlines() or [""])[0][:200]


class _Unreadable(Exception):
    """Its message is the reason and the remedy, to follow the name of the file."""


def _holds_code(name: str) -> _Unreadable:
    return _Unreadable(
        f"loading it would run code ({name}); where you trust its source, save the state dict alone first"
    )


class _Dtype:
    """Stands for `numpy.dtype(letters, ..)` while a pickle is read; its state may tell the order of the bytes alone."""

    def __init__(self, letters, *_):
        letters = letters.decode("ascii") if isinstance(letters, bytes) else letters
        if not isinstance(letters, str) or not _NUMBERS.fullmatch(letters):
            raise pickle.UnpicklingError("it holds an array of something else than numbers")
        self.dtype = np.dtype(letters)

    def __setstate__(self, state):
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for a numpy array while a pickle is read; the array is made when its state comes."""

    def __init__(self, *_):
        self.array = None

    def __setstate__(self, state):
        _, shape, dtype, fortran_order, data = state
        self.array = _from_bytes(dtype, data).reshape(shape, order="F" if fortran_order else "C")


def _from_bytes(dtype: _Dtype, data) -> np.ndarray:
    """A flat array of its own memory; `data` is text where Python 2 wrote the pickle."""
    data = data.encode("latin1") if isinstance(data, str) else bytes(data)
    array = np.frombuffer(data, dtype.dtype)
    return array.astype(array.dtype.newbyteorder("="))


def _from_buffer(data, dtype, shape, order) -> np.ndarray:
    return _from_bytes(dtype, data).reshape(shape, order=order)


def _encoded(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds text in the encoding {encoding}")
    return text.encode("latin1")


class _Callable:
    """Something that a pickle may call but, as one can with a function or a class, not change."""

    __slots__ = ("_function",)

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)

    def __setstate__(self, state):
        raise pickle.UnpicklingError("it changes what it calls")


_CALLABLE = {
    "numpy.ndarray": _Callable(_Array),  # only ever an argument of the next
    "numpy.core.multiarray._reconstruct": _Callable(_Array),
    "numpy.core.multiarray.scalar": _Callable(lambda dtype, data: _from_bytes(dtype, data)[0].item()),
    "numpy.core.numeric._frombuffer": _Callable(_from_buffer),
    "numpy.dtype": _Callable(_Dtype),
    "_codecs.encode": _Callable(_encoded),
    "__builtin__.bytes": _Callable(lambda: b""),  # how Python 3 writes no bytes for Python 2
    "collections.OrderedDict": _Callable(OrderedDict),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        found = _CALLABLE.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")
        if found is None:
            raise _holds_code(f"{module}.{name}")
        return found

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it refers to objects outside of it")


def _finished(value: Any, depth: int = 0) -> Any:
    """The stand-ins for arrays replaced by them."""
    if depth > _MAX_DEPTH:
        raise pickle.UnpicklingError("its containers are nested too deeply")
    if isinstance(value, _Array):
        if value.array is None:
            raise pickle.UnpicklingError("it holds an array without its numbers")
        return value.array
    if isinstance(value, dict):
        return {key: _finished(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finished(item, depth + 1) for item in value]
    return value
