"""A progress bar over the iterations, where the output is a terminal."""

import sys

from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage
from tqdm import tqdm


class ProgressBar(HookBase):
    """Iteration, time left and the smoothed total loss in one line of a terminal; silent elsewhere."""

    def __init__(self, enabled: bool | None = None):
        """enabled: None shows the bar if standard error is a terminal."""
        self.enabled = sys.stderr.isatty() if enabled is None else enabled

    def before_train(self):
        self.bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            unit="it",
            disable=not self.enabled,
            dynamic_ncols=True,
        )

    def after_step(self):
        if self.enabled and self.trainer.iter % 10 == 0:
            histories = get_event_storage().histories()
            if "total_loss" in histories:
                self.bar.set_postfix(loss=f"{histories['total_loss'].median(20):.2f}", refresh=False)
        self.bar.update()

    def after_train(self):
        self.bar.close()
