"""Steps with NaN or infinity never change the weights: they are diagnosed, then stop training or are skipped."""

import contextlib
import functools
import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from querypose.atomic_io import whole_file, writing
from querypose.engine.train_loop import StepTrainer
from querypose.errors import UserError

logger = logging.getLogger(__name__)

MOST_IN_A_ROW = 10  # steps that "skip" leaves out; a model that only produces NaN does not recover


class NonFiniteGuard(HookBase):
    """After a step whose gradient is not finite, in which `StepTrainer` has not stepped the optimizer in any process.

    Restores BatchNorm's statistics, computes the batch again to name the first tensor that is not finite, writes the
    batch to `non_finite_<iteration>.pth`, and raises a UserError (mode "stop") or continues ("skip").
    """

    def __init__(self, mode: str, output_dir: str):
        self.mode = mode
        self.output_dir = Path(output_dir)
        self.number = self._in_a_row = 0

    def before_train(self) -> None:
        self.loop: StepTrainer = self.trainer._trainer
        self._buffers = list(self.loop.plain_model.buffers())
        self._before = [buffer.clone() for buffer in self._buffers]

    def before_step(self) -> None:
        torch._foreach_copy_(self._before, self._buffers)  # a few kernels, however many buffers

    def restore_buffers(self) -> None:
        """Undo what the iteration's forward passes have done to BatchNorm's statistics."""
        torch._foreach_copy_(self._buffers, self._before)

    def after_step(self) -> None:
        if self.loop.is_finite:
            self._in_a_row = 0
            return
        self.number, self._in_a_row = self.number + 1, self._in_a_row + 1
        message = self._explain()
        if self.mode == "skip" and self._in_a_row < MOST_IN_A_ROW:
            logger.warning("%s; the step is skipped", message)
            self.trainer.storage.put_scalar("non_finite_steps", self.number, smoothing_hint=False)
            return
        advice = "lower SOLVER.BASE_LR, or skip such steps with SOLVER.NON_FINITE skip"
        if self.mode == "skip":
            advice = f"{MOST_IN_A_ROW} such steps in a row are too many: lower SOLVER.BASE_LR"
        try:
            saved = f"the weights before it are in {self.trainer.save_now()}"
        except UserError as error:
            saved = str(error)
        raise UserError(f"{message}; {saved}; {advice}")

    def _explain(self) -> str:
        """Compute the batch again, write it where a process finds something in it, and say what was found."""
        iteration, batch = self.trainer.iter, self.loop.batch
        self.restore_buffers()
        self.trainer.seed_steps.seed_step(iteration)
        losses, where = first_non_finite(self.loop, batch)
        self.restore_buffers()
        finding = None
        if where is not None:
            process = f"_process{comm.get_rank()}" if comm.get_world_size() > 1 else ""
            path = self.output_dir / f"non_finite_{iteration:07d}{process}.pth"
            content = {"iteration": iteration, "losses": losses, "first": where, "batch": list(map(_plain, batch))}
            place = str(path)
            try:
                with writing(path, "free disk space"), whole_file(path) as file:
                    torch.save(content, file)
            except UserError as error:
                place = f"{path}, which is not there ({error})"
            terms = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            images = ", ".join(f"{one.get('file_name')} (image {one.get('image_id')})" for one in batch)
            finding = f"{where} in {place} (losses: {terms}; images: {images})"
        found = " and ".join(text for text in comm.all_gather(finding) if text)
        first = found or "none when the batch is computed again"
        return f"iteration {iteration}: the gradient is not finite; the first tensor that is not: {first}"


def _plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """A training input as tensors and plain values, which `torch.load` reads with weights_only."""
    instances = inputs["instances"]
    fields = {key: getattr(value, "tensor", value) for key, value in instances.get_fields().items()}
    content = {key: value for key, value in inputs.items() if isinstance(value, str | int | float | Tensor)}
    return {**content, "instances": {"image_size": list(instances.image_size), **fields}}


def first_non_finite(loop: StepTrainer, batch: list[dict[str, Any]]) -> tuple[dict[str, float], str | None]:
    """Compute a batch again, in every process; the losses by name and, in words, the first tensor that is not finite.

    Parameters come first, then images, outputs of modules in the order in which they are computed, losses, and the
    parameters' gradients from the last to the first.
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
                hooks.enter_context(module.register_forward_hook(functools.partial(_note_outputs, found, name)))
        for part, options in loop.parts(batch):
            part_losses = loop.forward(model, part, options)
            for name, loss in part_losses.items():
                if _is_bad(loss):
                    found.append(f"the loss {name}")
                losses[name] = losses.get(name, 0.0) + loss.item()
            total: Tensor = sum(part_losses.values())  # type: ignore[assignment]
            # not backward(): the parameters' gradients, and their exchange between processes, stay as they are
            gradients = torch.autograd.grad(total, list(trained.values()), materialize_grads=True)
            pairs = reversed(list(zip(trained, gradients, strict=True)))
            found += [f"the gradient of {name}" for name, gradient in pairs if _is_bad(gradient)]
            if _is_bad(torch.stack([gradient.float().norm() for gradient in gradients]).norm()):
                found.append("the norm of the gradient, which overflows")
    return losses, (found[0] if found else None)


def _note_outputs(found: list[str], name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
    """A forward hook."""
    if any(_is_bad(leaf) for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)):
        found.append(f"the output of {name}")


def _is_bad(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(tensor.detach().isfinite().all())
