"""Steps with NaN or infinity never change the weights: they are diagnosed, then stop training or are skipped."""

import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from querypose.atomic_io import whole_file
from querypose.engine.diagnosis import first_non_finite
from querypose.errors import UserError

logger = logging.getLogger(__name__)

MOST_IN_A_ROW = 10  # steps that "skip" leaves out; a model that only produces NaN does not recover


class NonFiniteGuard(HookBase):
    """Acts on steps whose gradient, and so whose loss, is not finite.

    `StepTrainer` does not step the optimizer then, in any process. This hook restores BatchNorm's statistics, computes
    the batch again to name the first tensor that is not finite, writes the batch to `non_finite_<iteration>.pth`, and
    raises a UserError ("stop") or continues ("skip", at most MOST_IN_A_ROW times in a row).
    """

    def __init__(self, mode: str, output_dir: str):
        """mode: "stop" or "skip"; output_dir: folder for the batches."""
        self.mode = mode
        self.output_dir = Path(output_dir)
        self.number = self._in_a_row = 0

    def before_train(self) -> None:
        self.loop = self.trainer._trainer
        self._buffers = list(self.loop.plain_model.buffers())
        self._before = [buffer.clone() for buffer in self._buffers]

    def before_step(self) -> None:
        torch._foreach_copy_(self._before, self._buffers)  # a few kernels, however many buffers

    def restore_buffers(self) -> None:
        """Undo what the iteration's forward passes have done to the buffers: BatchNorm's statistics."""
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
        comm.synchronize()  # a process that ends stops the others, the one that writes included
        raise UserError(f"{message}; {saved}; {advice}")

    def _explain(self) -> str:
        """Compute the batch again, write it where a process finds something in it, and say what was found."""
        seed_step, iteration = self.trainer.seed_steps.seed_step, self.trainer.iter
        self.restore_buffers()
        seed_step(iteration)
        losses, where = first_non_finite(self.loop, self.loop.batch)
        self.restore_buffers()
        finding = None
        if where is not None or comm.get_world_size() == 1:
            finding = f"{where or 'nothing when it is computed again'} in {self._write(losses, where)}"
            terms = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            images = ", ".join(f"{one.get('file_name')} (image {one.get('image_id')})" for one in self.loop.batch)
            finding += f" (losses: {terms}; images: {images})"
        found = [text for text in comm.all_gather(finding) if text is not None]
        what = " and ".join(found) or "nothing in any process's part of the batch when it is computed again"
        return f"iteration {iteration}: the gradient is not finite; the first tensor that is not: {what}"

    def _write(self, losses: dict[str, float], where: str | None) -> str:
        """Write this process's batch as tensors and plain values, which `torch.load` reads with weights_only."""
        iteration = self.trainer.iter
        process = f"_process{comm.get_rank()}" if comm.get_world_size() > 1 else ""
        path = self.output_dir / f"non_finite_{iteration:07d}{process}.pth"
        content = {"iteration": iteration, "losses": losses, "first": where}
        content["batch"] = [plain(inputs) for inputs in self.loop.batch]
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:
            return f"{path}, which cannot be written ({error.__context__ or error})"
        return str(path)


def plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """A model's training input with its `Instances` as a dict of tensors."""
    content: dict[str, Any] = {
        key: value for key, value in inputs.items() if isinstance(value, str | int | float | torch.Tensor)
    }
    instances = inputs.get("instances")
    if instances is not None:
        fields = {key: getattr(value, "tensor", value) for key, value in instances.get_fields().items()}
        content["instances"] = {"image_size": list(instances.image_size), **fields}
    return content
