"""Detectron2's hook for metrics where ours differs, and a progress bar."""

import logging
import sys

from detectron2.engine import HookBase, hooks
from tqdm import tqdm

logger = logging.getLogger(__name__)


class MetricsWriter(hooks.PeriodicWriter):
    """Detectron2's; training continues where metrics cannot be written, of a full disk for example."""

    def after_step(self) -> None:
        try:
            super().after_step()
        except OSError as error:
            logger.error("the metrics cannot be written (%s); training continues", error.strerror or error)


class ProgressBar(HookBase):
    """Iteration, time left and the smoothed total loss in one line of a terminal; silent elsewhere."""

    def before_train(self) -> None:
        first, last = self.trainer.start_iter, self.trainer.max_iter
        self.bar = tqdm(total=last, initial=first, unit="it", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def after_step(self) -> None:
        histories = self.trainer.storage.histories()
        if self.trainer.iter % 10 == 0 and "total_loss" in histories:
            self.bar.set_postfix(loss=f"{histories['total_loss'].median(20):.2f}", refresh=False)
        self.bar.update()

    def after_train(self) -> None:
        self.bar.close()
