"""Pickles of numpy arrays, read without calling a function that they name, numpy's own included."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

# kinds of numbers, by numpy's letters
_NUMBERS = re.compile(r"[?bBhHiIlLqQefd]|[fiu][1248]|b1")


class PickledDtype:
    """Stands for `numpy.dtype(letters, ..)` while a pickle is read; its state may only tell the order of the bytes."""

    def __init__(self, letters: str | bytes, *_: Any):
        letters = letters.decode("ascii") if isinstance(letters, bytes) else letters
        if not isinstance(letters, str) or not _NUMBERS.fullmatch(letters):
            raise pickle.UnpicklingError("it holds an array of something else than numbers")
        self.dtype = np.dtype(letters)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class PickledArray:
    """Stands for a numpy array while a pickle is read; the array is made when its state comes."""

    array = np.zeros(0)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, data = state
        self.array = _from_bytes(dtype, data).reshape(shape, order="F" if fortran_order else "C")


def _from_bytes(dtype: PickledDtype, data: Any) -> np.ndarray:
    """A flat array of its own memory; `data` is text where Python 2 wrote the pickle."""
    data = data.encode("latin1") if isinstance(data, str) else bytes(data)
    array = np.frombuffer(data, dtype.dtype)
    return array.astype(array.dtype.newbyteorder("="))


def _scalar(dtype: PickledDtype, data: Any) -> float:
    return _from_bytes(dtype, data)[0].item()


def _from_buffer(data: Any, dtype: PickledDtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return _from_bytes(dtype, data).reshape(shape, order="F" if order == "F" else "C")


# numpy's names, and what is called in their place
NUMPY_STAND_INS: dict[str, Callable[..., Any]] = {"numpy.ndarray": PickledArray, "numpy.dtype": PickledDtype}
for _core in ("numpy.core", "numpy._core"):
    NUMPY_STAND_INS[f"{_core}.multiarray._reconstruct"] = PickledArray
    NUMPY_STAND_INS[f"{_core}.multiarray.scalar"] = _scalar
    NUMPY_STAND_INS[f"{_core}.numeric._frombuffer"] = _from_buffer

_STAND_INS: dict[str, Callable[..., Any]] = {
    **NUMPY_STAND_INS,
    # how Python 3 writes bytes, and no bytes, for Python 2
    "_codecs.encode": lambda text, _: str.encode(text, "latin1"),
    "__builtin__.bytes": lambda: b"",
    "collections.OrderedDict": OrderedDict,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        stand_in = _STAND_INS.get(f"{module}.{name}")
        if stand_in is None:
            raise pickle.UnpicklingError(f"Unsupported class {module}.{name}")  # in PyTorch's words
        # a new function each time: a pickle may set attributes of what it calls
        return lambda *args: stand_in(*args)

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def load_array_pickle(file: BinaryIO) -> Any:
    """The content of a pickle of numpy arrays, numbers, strings and containers of them.

    Raises:
        pickle.UnpicklingError: it holds anything else. A damaged pickle can raise any other exception.
    """
    return with_arrays(_ArrayUnpickler(file, encoding="latin1").load())


def with_arrays(value: Any) -> Any:
    """`value` with the arrays in place of their stand-ins; its dicts and lists are changed in place."""
    if isinstance(value, PickledArray):
        return value.array
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = with_arrays(item)
    elif isinstance(value, list):
        value[:] = map(with_arrays, value)
    elif type(value) is tuple:
        return tuple(map(with_arrays, value))
    return value
