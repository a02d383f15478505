"""Detectron2's hooks for evaluation and metrics where ours differ, a progress bar, and a count of unreadable images."""

import logging
import sys

from detectron2.engine import HookBase, hooks
from detectron2.utils.events import get_event_storage
from tqdm import tqdm

from querypose.data import count_unreadable
from querypose.engine.train_loop import METRIC_PERIOD

logger = logging.getLogger(__name__)


class EvalHook(hooks.EvalHook):
    """Detectron2's, without an evaluation after a run that was stopped in its last iteration."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class MetricsWriter(hooks.PeriodicWriter):
    """Detectron2's; training continues where metrics cannot be written, of a full disk for example."""

    def after_step(self) -> None:
        try:
            super().after_step()
        except OSError as error:
            logger.error("the metrics cannot be written (%s); training continues", error.strerror or error)


class UnreadableImages(HookBase):
    """Counts skipped images, in the metrics as `unreadable_images` and in the log at the end."""

    def __init__(self, list_file: str):
        self.list_file = list_file

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % METRIC_PERIOD == 0:
            self.trainer.storage.put_scalar("unreadable_images", count_unreadable(self.list_file), smoothing_hint=False)

    def after_train(self) -> None:
        number = count_unreadable(self.list_file)
        where = f"; see {self.list_file}" if number else ""
        logger.info("%d images could not be read and were skipped%s", number, where)


class ProgressBar(HookBase):
    """Iteration, time left and the smoothed total loss in one line of a terminal; silent elsewhere."""

    def before_train(self) -> None:
        self.bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            unit="it",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def after_step(self) -> None:
        if self.trainer.iter % 10 == 0:
            histories = get_event_storage().histories()
            if "total_loss" in histories:
                self.bar.set_postfix(loss=f"{histories['total_loss'].median(20):.2f}", refresh=False)
        self.bar.update()

    def after_train(self) -> None:
        self.bar.close()
