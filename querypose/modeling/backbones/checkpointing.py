"""Activation checkpointing of a backbone's blocks: less memory in training for one more forward pass."""

import contextlib
import functools
from collections.abc import Iterable, Iterator

import torch
from detectron2.modeling.backbone import ResNet
from torch import nn
from torch.utils.checkpoint import checkpoint

from querypose.errors import UserError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Let every block keep only its inputs for the backward pass, which computes the rest anew.

    Outputs, gradients, running statistics and the names in the state dict are those without.
    """
    for block in blocks:
        block.__class__ = _checkpointed(type(block))


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The innermost modules that stand in a sequence and hold at least two convolutions or Linear layers.

    These are the residual blocks of the usual networks. A block with hooks inside is left out: they would run again
    in the backward pass.
    """
    blocks = []
    for child in model.children():
        inner = find_blocks(child)
        layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in child.modules())
        hooked = any(module._forward_hooks for module in child.modules() if module is not child)
        if inner:
            blocks += inner
        elif isinstance(model, _CONTAINERS) and not isinstance(child, _CONTAINERS) and layers >= 2 and not hooked:
            blocks.append(child)
    return blocks


def checkpoint_resnet(backbone: nn.Module) -> None:
    """`checkpoint_blocks` for the residual blocks of a backbone on Detectron2's ResNet.

    Raises:
        UserError: another backbone.
    """
    network = getattr(backbone, "bottom_up", backbone)
    if not isinstance(network, ResNet):
        raise UserError(
            "MODEL.RESNETS.ACTIVATION_CHECKPOINTING is True, but MODEL.BACKBONE.NAME names no ResNet of Detectron2's; "
            "set it to False (other backbones have keys of their own: MODEL.HRNET, MODEL.SWIN, MODEL.TIMM)"
        )
    checkpoint_blocks(find_blocks(network))


# A subclass, and not another `forward` on the instance: a copy of the model (an average of its weights, say) would
# share the latter with the original.
@functools.cache
def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    class Checkpointed(kind):
        def forward(self, *inputs):
            if not (self.training and torch.is_grad_enabled()):
                return super().forward(*inputs)

            def run(*inputs):
                # timm's HRNet overwrites the list of its inputs, which the second pass needs as they were
                return super(Checkpointed, self).forward(*[list(x) if isinstance(x, list) else x for x in inputs])

            contexts = lambda: (contextlib.nullcontext(), _running_statistics_held(self))  # noqa: E731
            return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts)

    Checkpointed.__name__ = Checkpointed.__qualname__ = f"Checkpointed{kind.__name__}"
    return Checkpointed


@contextlib.contextmanager
def _running_statistics_held(block: nn.Module) -> Iterator[None]:
    """BatchNorm normalises with batch statistics, but does not count the same batch a second time."""
    held = [
        (module, name, buffer)
        for module in block.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in held:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in held:
            setattr(module, name, buffer)
