"""NaN and infinity: steps that have them change nothing, are explained, and end the training or are left out."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor

from querypose.atomic_io import whole_file
from querypose.engine.diagnosis import first_non_finite
from querypose.engine.train_loop import METRIC_PERIOD
from querypose.errors import UserError

logger = logging.getLogger(__name__)

MOST_IN_A_ROW = 10  # steps that "skip" leaves out; a model that only makes NaN does not recover


@dataclass
class _Step:
    """An iteration whose verdict is on its way from the device: its batch, and BatchNorm's statistics before it."""

    iteration: int
    batch: list[dict]
    buffers: list[Tensor]
    flag: Tensor  # not 0 where the gradient was not finite
    arrived: torch.cuda.Event | None


class NonFiniteGuard(HookBase):
    """Acts on steps whose gradient, and so whose loss, is not finite.

    The optimiser leaves the weights alone in such a step, on the device and in every process, as the norm of the common
    gradient says (querypose.engine.optimizer). This hook reads that verdict: on a CPU at once, on a GPU when the next
    iteration has computed its gradient, which waits for the device anyway for the matching. It then puts BatchNorm's
    statistics back and computes the batch again to name the first tensor that is not finite, writes the batch to
    `non_finite_<iteration>.pth`, and either saves a checkpoint and raises a UserError ("stop") or goes on ("skip", at
    most MOST_IN_A_ROW times in a row).
    """

    def __init__(self, mode: str, output_dir: str, known_every: tuple[int, ...] = ()):
        """
        Args:
            mode: "stop" or "skip".
            output_dir: folder for the batches.
            known_every: periods in iterations of what must not see a step without its verdict (checkpoints,
                evaluations); 0 is never.
        """
        self.mode = mode
        self.output_dir = Path(output_dir)
        self.periods = [METRIC_PERIOD, *(period for period in known_every if period > 0)]
        self.number = self._in_a_row = 0
        self._waiting = None

    def before_train(self):
        self.loop = self.trainer._trainer
        self._buffers = list(self.loop.plain_model.buffers())
        self._handle = self.loop.optimizer.register_step_pre_hook(lambda *_: self.settle())

    def before_step(self):
        self._before = [buffer.clone() for buffer in self._buffers]

    def after_step(self):
        flag, arrived = on_its_way_to_the_host(self.loop.optimizer.found_inf)
        iteration = self.trainer.iter
        self._waiting = _Step(iteration, self.loop.batch, self._before, flag, arrived)
        last = iteration >= self.trainer.max_iter - 1
        if arrived is None or last or any((iteration + 1) % period == 0 for period in self.periods):
            self.settle()

    def after_train(self):
        self._handle.remove()

    def settle(self) -> None:
        """Read the verdict on the last step if that has not been done, and act on it; in all processes together."""
        step, self._waiting = self._waiting, None
        if step is None:
            return
        if step.arrived is not None:
            step.arrived.synchronize()
        if not step.flag:
            self._in_a_row = 0
            return
        for buffer, before in zip(self._buffers, step.buffers, strict=True):
            buffer.copy_(before)
        self.number, self._in_a_row = self.number + 1, self._in_a_row + 1
        message = self._explain(step)
        if self.mode == "skip" and self._in_a_row < MOST_IN_A_ROW:
            logger.warning("%s; the step is left out", message)
            self.trainer.storage.put_scalar("non_finite_steps", self.number, smoothing_hint=False)
            return
        self.trainer.iter = step.iteration
        try:
            saved = f"the weights before it are in {self.trainer.save_now()}"
        except UserError as error:
            saved = str(error)
        comm.synchronize()  # a process that ends takes the others with it, the one that writes included
        advice = "lower SOLVER.BASE_LR, or leave such steps out with SOLVER.NON_FINITE skip"
        if self.mode == "skip":
            advice = f"{MOST_IN_A_ROW} such steps in a row are too many: lower SOLVER.BASE_LR"
        raise UserError(f"{message}; {saved}; {advice}")

    def _explain(self, step: _Step) -> str:
        """Compute the batch again, write it where a process finds something in it, and say what was found."""
        seed = self.trainer.seed_steps.seed_step
        seed(step.iteration)
        losses, where = first_non_finite(self.loop, step.batch)
        for buffer, before in zip(self._buffers, step.buffers, strict=True):
            buffer.copy_(before)
        seed(self.trainer.iter)
        finding = None
        if where is not None or comm.get_world_size() == 1:
            finding = f"{where or 'nothing when it is computed again'} in {self._write(step, losses, where)}"
            terms = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            images = ", ".join(str(name_of(inputs)) for inputs in step.batch)
            finding += f" (losses: {terms}; images: {images})"
        found = [text for text in comm.all_gather(finding) if text is not None]
        what = " and ".join(found) or "nothing in any process's part of the batch when it is computed again"
        return f"iteration {step.iteration}: the gradient is not finite; the first tensor that is not: {what}"

    def _write(self, step: _Step, losses: dict[str, float], where: str | None) -> str:
        """Write the batch of this process as tensors and plain values, which `torch.load` reads with weights_only."""
        process = f"_process{comm.get_rank()}" if comm.get_world_size() > 1 else ""
        path = self.output_dir / f"non_finite_{step.iteration:07d}{process}.pth"
        content = {"iteration": step.iteration, "losses": losses, "first": where}
        content["batch"] = [plain(inputs) for inputs in step.batch]
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:
            return f"{path}, which cannot be written ({error.__context__ or error})"
        return str(path)


def on_its_way_to_the_host(value: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A value's copy on the host, and when it is there; None for at once, as a CPU's is."""
    if not value.is_cuda:
        return value, None
    copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return copy, arrived


def name_of(inputs: dict):
    """What an input is called: its file and its number, as far as it has them."""
    name, number = inputs.get("file_name"), inputs.get("image_id")
    if name is None:
        return "without a name" if number is None else f"image {number}"
    return name if number is None else f"{name} (image {number})"


def plain(inputs: dict) -> dict:
    """A model's training input with its `Instances` as a dict of tensors."""
    content = {key: value for key, value in inputs.items() if isinstance(value, str | int | float | Tensor)}
    instances = inputs.get("instances")
    if instances is not None:
        fields = {key: getattr(value, "tensor", value) for key, value in instances.get_fields().items()}
        content["instances"] = {"image_size": list(instances.image_size), **fields}
    return content
