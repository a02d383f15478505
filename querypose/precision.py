"""Half precision: where it is the faster one, and weights that are rounded once instead of for every image."""

import contextlib
import platform
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from iopath.common.file_io import get_cache_dir
from torch import nn

from querypose.atomic_io import whole_file


def fastest_precision(device: torch.device) -> str:
    """Return "bfloat16" on a CPU that computes a convolution in it in at most 0.8 of the time, else "float32".

    The first call measures for a fraction of a second. Later ones, also of other processes, read the result from
    iopath's cache folder, where it stands for the machine and the version of PyTorch.
    """
    if device.type != "cpu":
        return "float32"
    file = Path(get_cache_dir()) / f"querypose_precision_{platform.node()}_{torch.__version__}.txt"
    with contextlib.suppress(OSError, ValueError):
        if (known := file.read_text()) in ("float32", "bfloat16"):
            return known
    ratio = convolution_seconds(torch.bfloat16) / convolution_seconds(torch.float32)
    fastest = "bfloat16" if ratio <= 0.8 else "float32"
    with contextlib.suppress(OSError), whole_file(file) as target:
        target.write(fastest.encode())
    return fastest


@torch.inference_mode()
def convolution_seconds(dtype: torch.dtype, channels: int = 256, side: int = 24) -> float:
    """The least of five times of a 3x3 convolution of `channels` maps of side x side on one core."""
    images = torch.ones(1, channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)
    convolution = nn.Conv2d(channels, channels, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, other programs on the machine would be measured too
    try:
        return min(timeit.repeat(lambda: convolution(images), number=1, repeat=5))
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def rounding_weights(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Round, after the block, the convolutions and Linear layers of `model` that the block ran under autocast.

    What follows computes the same numbers, in half the memory for these weights, but no longer without autocast to
    `dtype`. A layer that ran with autocast turned off keeps its float32. Other threads may run the model meanwhile.
    """
    rounded: set[nn.Module] = set()
    kept: set[nn.Module] = set()

    def note(module: Any, args: Any) -> None:
        (rounded if torch.is_autocast_enabled(module.weight.device.type) else kept).add(module)

    layers = (m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)))
    handles = [module.register_forward_pre_hook(note) for module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for module in rounded - kept:
        for name, parameter in module.named_parameters(recurse=False):
            # a new parameter: another thread may be reading the old one
            setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
