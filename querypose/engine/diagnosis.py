"""Finds the first non-finite tensor of a training step by computing the step again with hooks."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from querypose.engine.train_loop import StepTrainer


def first_non_finite(loop: StepTrainer, batch: list[dict[str, Any]]) -> tuple[dict[str, float], str | None]:
    """Compute the losses and gradients of a batch again; no parameter and no stored gradient changes.

    In data-parallel training all processes must call it, each with its own part of the batch.

    Returns:
        the losses by name; the first tensor with NaN or infinity in words, None where all are finite. Parameters come
        first, then inputs, outputs of modules in the order in which they are computed, losses, and gradients in the
        order of the backward pass.
    """
    model = loop.plain_model
    found = [f"the parameter {name}" for name, tensor in model.named_parameters() if _is_bad(tensor)]
    found += [f"the buffer {name}" for name, tensor in model.named_buffers() if _is_bad(tensor)]
    found += [f"the image {index} of the batch" for index, inputs in enumerate(batch) if _is_bad(inputs["image"])]
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    losses: dict[str, float] = {}
    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(_observer(name, found)))
        for part, options in loop.parts(batch):
            part_losses = loop.forward(model, part, options)
            for name, loss in part_losses.items():
                if _is_bad(loss):
                    found.append(f"the loss {name}")
                losses[name] = losses.get(name, 0.0) + loss.item()
            total: Tensor = sum(part_losses.values())  # type: ignore[assignment]
            # not backward(): the parameters' gradients, and their exchange between processes, stay as they are
            gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
            for name, gradient in reversed(list(zip(trained, gradients, strict=True))):
                if gradient is not None and _is_bad(gradient):
                    found.append(f"the gradient of {name}")
            norms = [gradient.float().norm() for gradient in gradients if gradient is not None]
            if norms and _is_bad(torch.stack(norms).norm()):
                found.append("the norm of the gradient, which overflows")
    return losses, (found[0] if found else None)


def _observer(name: str, found: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    """A forward hook that notes outputs of a module, and gradients of outputs, that are not finite."""

    def note_gradient(gradient: Tensor) -> None:
        if _is_bad(gradient):
            found.append(f"the gradient of the output of {name}")

    def observe(module: nn.Module, inputs: Any, outputs: Any) -> None:
        for tensor in _tensors(outputs):
            if _is_bad(tensor):
                found.append(f"the output of {name}")
            elif tensor.requires_grad:
                tensor.register_hook(note_gradient)

    return observe


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _is_bad(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(tensor.detach().isfinite().all())
