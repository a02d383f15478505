"""Which tensor of a training step is the first that is not finite: the step is computed again under observation."""

import torch
from torch import Tensor, nn

from querypose.engine.train_loop import StepTrainer


def first_non_finite(loop: StepTrainer, batch: list[dict]) -> tuple[dict[str, float], str | None]:
    """Compute the losses and gradients of a batch again; no parameter and no gradient that is stored changes.

    In data-parallel training all processes must call it, each with its own part of the batch.

    Returns:
        the losses by name; the first tensor with NaN or infinity in words, None where all are finite. Parameters come
        first, then inputs, the outputs of modules in the order in which they are computed, losses, and the gradients in
        the order of the backward pass.
    """
    model = loop.plain_model
    found = [f"the parameter {name}" for name, tensor in model.named_parameters() if _is_bad(tensor)]
    found += [f"the buffer {name}" for name, tensor in model.named_buffers() if _is_bad(tensor)]
    found += [f"the image {index} of the batch" for index, inputs in enumerate(batch) if _is_bad(inputs["image"])]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses: dict[str, float] = {}
    with _Observed(model, found):
        for part, options in loop.parts(batch):
            part_losses = loop.forward(model, part, options)
            for name, loss in part_losses.items():
                if _is_bad(loss):
                    found.append(f"the loss {name}")
                losses[name] = losses.get(name, 0.0) + loss.item()
            # not backward(): the parameters' gradients, and what exchanges them, are left alone
            gradients = torch.autograd.grad(sum(part_losses.values()), parameters, allow_unused=True)
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            for parameter, gradient in zip(reversed(parameters), reversed(gradients), strict=True):
                if gradient is not None and _is_bad(gradient):
                    found.append(f"the gradient of {names[id(parameter)]}")
    return losses, (found[0] if found else None)


class _Observed:
    """Inside the block, notes outputs of the model's modules, and gradients of outputs, that are not finite."""

    def __init__(self, model: nn.Module, found: list[str]):
        self._model = model
        self._found = found

    def __enter__(self):
        self._handles = [
            module.register_forward_hook(self._observer(name)) for name, module in self._model.named_modules() if name
        ]

    def __exit__(self, *error):
        for handle in self._handles:
            handle.remove()

    def _observer(self, name: str):
        def observe(module, inputs, outputs):
            for tensor in _tensors(outputs):
                if _is_bad(tensor):
                    self._found.append(f"the output of {name}")
                elif tensor.requires_grad:
                    tensor.register_hook(note_gradient)

        def note_gradient(gradient):
            if _is_bad(gradient):
                self._found.append(f"the gradient of the output of {name}")

        return observe


def _tensors(value):
    """The tensors in nested lists, tuples and dicts; not those of a `DecoderOutput`, where NaN may have a meaning."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _is_bad(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(tensor.detach().isfinite().all())
