"""Where the memory goes that a training step on a CPU frees."""

import ctypes
import os

# mallopt's parameters, of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let the C library keep what this process frees for its next allocations; returns whether it does now.

    PyTorch's CPU tensors come from malloc. glibc takes large ones from the system one by one and gives them back when
    they are freed, so that the system clears all of a step's memory in every step. Elsewhere, and where the environment
    says what malloc is to do, nothing changes.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # other C libraries, Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
