"""Process-wide settings that make training on a CPU faster; for programs, not for libraries."""

import contextlib
import ctypes

import torch
from detectron2.config import CfgNode


def speed_up_cpu_training(cfg: CfgNode) -> None:
    """Where MODEL.DEVICE is a CPU, flush denormal numbers to zero and let glibc keep what this process frees.

    It would return large tensors' memory to the system, which clears all of a step's memory in every step.
    """
    if cfg.MODEL.DEVICE != "cpu":
        return
    torch.set_flush_denormal(True)  # gradients below float32's normal range take a CPU a hundred times as long
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries, Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
