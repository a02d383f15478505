"""Weights that autocast would round for every image, rounded once."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


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
