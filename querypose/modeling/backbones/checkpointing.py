"""Activation checkpointing of a backbone's blocks: less memory in training for one more forward pass."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as wrapping
from torch.utils.checkpoint import checkpoint

from querypose.errors import UserError


def checkpoint_blocks(backbone: nn.Module) -> None:
    """Let every residual block of a backbone keep only its input for the backward pass, which recomputes the rest.

    Outputs, gradients, running statistics and the names in the state dict stay as they are.
    """
    blocks = set(find_blocks(backbone))
    if not blocks:
        raise UserError("MODEL.BACKBONE.ACTIVATION_CHECKPOINTING is True, but the backbone has no blocks for it")
    wrap = functools.partial(wrapping.checkpoint_wrapper, checkpoint_fn=_checkpoint)
    wrapping.apply_activation_checkpointing(backbone, wrap, check_fn=lambda module: module in blocks)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The innermost modules in a sequence that hold at least two convolutions or Linear layers: residual blocks.

    A block with hooks inside is left out: they would run again in the backward pass.
    """
    blocks, containers = [], (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    for child in model.children():
        inner = find_blocks(child)
        layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in child.modules())
        hooked = any(module._forward_hooks for module in child.modules() if module is not child)
        if inner:
            blocks += inner
        elif isinstance(model, containers) and not isinstance(child, containers) and layers >= 2 and not hooked:
            blocks.append(child)
    return blocks


def _checkpoint(block: nn.Module, *inputs: Tensor) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return block(*inputs)
    contexts = lambda: (contextlib.nullcontext(), _running_statistics_kept(block))  # noqa: E731
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _running_statistics_kept(block: nn.Module) -> Iterator[None]:
    """BatchNorm normalizes with batch statistics, but does not update its running statistics a second time."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)
