"""Process-wide settings that make training on a CPU faster; for programs, not for libraries."""

import contextlib
import ctypes
import os

import torch
from detectron2.config import CfgNode


def speed_up_cpu_training(cfg: CfgNode) -> None:
    """Flush denormal numbers to zero and keep freed memory, where MODEL.DEVICE is a CPU."""
    if cfg.MODEL.DEVICE == "cpu":
        torch.set_flush_denormal(True)  # gradients below float32's normal range take a CPU a hundred times as long
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep what this process frees, unless environment variables configure malloc.

    It would return large tensors' memory to the system, which clears all of a step's memory in every step.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries, Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
