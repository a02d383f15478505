"""When training writes checkpoints, which ones are kept, and which one is the best."""

import json
import logging
from pathlib import Path

from detectron2.engine import HookBase

from querypose.atomic_io import whole_file
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.errors import UserError

logger = logging.getLogger(__name__)

KEPT = 5  # of `model_<iteration>.pth`, the newest


class PeriodicCheckpoints(HookBase):
    """`model_<iteration>.pth` every `period` iterations, of which the newest are kept; at the end `model_final.pth`.

    A checkpoint that cannot be written, of a full disk for example, is reported and left out; training continues, and
    the older ones stay. The last one must be written: otherwise a UserError ends the run.
    """

    def __init__(self, checkpointer: PoseCheckpointer, period: int):
        self.checkpointer = checkpointer
        self.period = period
        self.saved = -1  # the iteration of the last checkpoint

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if iteration >= self.trainer.max_iter - 1:
            self.checkpointer.save("model_final", iteration=iteration)
            self.saved = iteration
        elif (iteration + 1) % self.period == 0:
            try:
                self.save(iteration)
            except UserError as error:
                logger.error("%s (training continues without it)", error)

    def path(self, iteration: int) -> Path:
        """Where the state after an iteration is saved."""
        return Path(self.checkpointer.save_dir) / f"model_{iteration:07d}.pth"

    def save(self, iteration: int) -> None:
        """Write the state after an iteration, and remove older ones; raises as `PoseCheckpointer.save`."""
        path = self.path(iteration)
        self.checkpointer.save(path.stem, iteration=iteration)
        self.saved = iteration
        numbered = sorted(path.parent.glob("model_[0-9]*.pth"), key=lambda other: int(other.stem.partition("_")[2]))
        for old in numbered[:-KEPT]:
            if old != path:
                old.unlink(missing_ok=True)


class BestCheckpoint(HookBase):
    """`model_best.pth`: the state with the highest metric of all evaluations, described in `model_best.json`."""

    def __init__(self, checkpointer: PoseCheckpointer, metrics: list[str]):
        """metrics: names of the metric in the event storage; the first that exists counts."""
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.record = Path(checkpointer.save_dir) / "model_best.json"

    def before_train(self) -> None:
        self.best = -float("inf")
        self._seen: tuple[float, int] | None = None
        if self.trainer.start_iter > 0 and self.record.is_file():
            self.best = json.loads(self.record.read_text())["value"]

    def after_step(self) -> None:
        self._compare(self.trainer.iter)

    def after_train(self) -> None:
        self._compare(self.trainer.iter - 1)

    def _compare(self, iteration: int) -> None:
        """Save the state after a new evaluation that is better than all before."""
        latest = self.trainer.storage.latest()
        name = next((name for name in self.metrics if name in latest), None)
        if name is None or latest[name] == self._seen:
            return
        self._seen = value, _ = latest[name]
        if not value > self.best:  # NaN is not better than anything
            return
        self.best = value
        try:
            self.checkpointer.save("model_best", tag=False, iteration=iteration)
            with whole_file(self.record) as file:
                file.write(json.dumps({"metric": name, "value": value, "iteration": iteration}).encode())
        except (UserError, OSError) as error:
            logger.error("%s (training continues without the best checkpoint)", error)
        else:
            logger.info("%s %.3f is the best so far; saved model_best.pth", name, value)
