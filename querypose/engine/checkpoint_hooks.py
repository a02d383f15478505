"""When training writes checkpoints, which ones stay, and which one is the best."""

import json
import logging
import re
from pathlib import Path

from detectron2.engine import HookBase

from querypose.atomic_io import whole_file
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.errors import UserError

logger = logging.getLogger(__name__)


class PeriodicCheckpoints(HookBase):
    """`model_<iteration>.pth` every `period` iterations, of which the newest are kept; at the end `model_final.pth`.

    A checkpoint that cannot be written, because the disk is full for example, is reported and left out; training goes
    on, and the older ones stay. The last one must be written: a UserError ends a run that cannot.
    """

    def __init__(self, checkpointer: PoseCheckpointer, period: int, kept: int):
        """
        Args:
            kept: how many of `model_<iteration>.pth` stay; 0 for all.
        """
        self.checkpointer = checkpointer
        self.period = period
        self.kept = kept

    def after_step(self):
        iteration = self.trainer.iter
        if iteration >= self.trainer.max_iter - 1:
            self.checkpointer.save("model_final", iteration=iteration)
        elif (iteration + 1) % self.period == 0:
            try:
                self.save(iteration)
            except UserError as error:
                logger.error("%s (training goes on without it)", error)

    def path(self, iteration: int) -> Path:
        """Where the state after an iteration is saved."""
        return Path(self.checkpointer.save_dir) / f"model_{iteration:07d}.pth"

    def save(self, iteration: int) -> None:
        """Write the state after an iteration, and remove older ones.

        Raises:
            UserError: as of `PoseCheckpointer.save`.
        """
        self.checkpointer.save(self.path(iteration).stem, iteration=iteration)
        if self.kept:
            self._remove_old(iteration)

    def _remove_old(self, iteration: int):
        found = {}
        for path in Path(self.checkpointer.save_dir).glob("model_*.pth"):
            number = re.fullmatch(r"model_(\d+)", path.stem)
            if number:
                found[int(number[1])] = path
        for number in sorted(found)[: -self.kept]:
            if number != iteration:
                found[number].unlink(missing_ok=True)


class BestCheckpoint(HookBase):
    """`model_best.pth`: the state with the highest metric of all evaluations, which `model_best.json` names."""

    def __init__(self, checkpointer: PoseCheckpointer, metrics: list[str]):
        """
        Args:
            metrics: names of the metric in the event storage, the first that there is counts.
        """
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.record = Path(checkpointer.save_dir) / "model_best.json"

    def before_train(self):
        self.best = -float("inf")
        self._seen = None
        if self.trainer.start_iter > 0 and self.record.is_file():
            self.best = json.loads(self.record.read_text())["value"]

    def after_step(self):
        self._compare(self.trainer.iter)

    def after_train(self):
        self._compare(self.trainer.iter - 1)

    def _compare(self, iteration: int):
        """Save the state if there is a metric that was not there before, and no older one is as high."""
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
            logger.error("%s (training goes on without the best)", error)
        else:
            logger.info("%s %.3f is the best so far; saved model_best.pth", name, value)
