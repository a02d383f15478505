"""Hooks of training: seeds, signals, averaged weights, metrics on a full disk, a progress bar."""

import logging
import random
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from querypose.data import TrainingLoader
from querypose.data.training_loader import hashed

logger = logging.getLogger(__name__)


class SeedSteps(HookBase):
    """Randomness is a function of the seed, the process and the iteration, so that a resumed run samples the same.

    Seeds every iteration, and starts the loader where a resumed run stopped, with the seed that it drew.
    """

    def __init__(self, loader: TrainingLoader):
        self.loader = loader

    def before_train(self) -> None:
        self.loader.first_batch = self.trainer.start_iter

    def before_step(self) -> None:
        self.seed_step(self.trainer.iter)

    def seed_step(self, iteration: int) -> None:
        python, numpy, pytorch = hashed(self.loader.seed, iteration, comm.get_rank())
        random.seed(python)
        np.random.seed(numpy)
        torch.manual_seed(pytorch)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.loader.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.loader.seed = state_dict["seed"]


class Interrupted(SystemExit):
    """Ends the process with code 128 + the signal; `between_steps`: the state after an iteration can be saved."""

    def __init__(self, signum: int, between_steps: bool):
        super().__init__(128 + signum)
        self.signal_name = signal.Signals(signum).name
        self.between_steps = between_steps


class StopOnSignal(HookBase):
    """Raises `Interrupted` in every process after the same iteration once any has received SIGTERM or Ctrl-C.

    Processes agree on it when they exchange metrics. During an evaluation a single process raises it at once; several
    have to stay together and finish it. A second signal ends the process at once.
    """

    def __init__(self) -> None:
        self._received = 0
        self._at = 0.0
        self._in_step = False
        self._before: dict[int, Any] = {}

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._on_signal)

    def before_step(self) -> None:
        self._in_step = True

    def after_step(self) -> None:
        last = self.trainer.iter >= self.trainer.max_iter - 1
        if last or comm.get_world_size() == 1 or self.trainer._trainer.reports:
            self._received = max(comm.all_gather(self._received))
            if self._received and not last:
                raise Interrupted(self._received, between_steps=True)
        self._in_step = False

    def after_train(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if self._received and self.trainer.iter >= self.trainer.max_iter:
            raise Interrupted(self._received, between_steps=True)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        # a terminal sends Ctrl-C to every process, and the launcher passes it on: the same one, twice
        again = self._received and time.monotonic() - self._at > 2.0
        if not self._received:
            self._received, self._at = signum, time.monotonic()
        if again or (not self._in_step and comm.get_world_size() == 1):
            raise Interrupted(signum, between_steps=not self._in_step)


class WeightAveraging(HookBase):
    """After every step of `model`, which is not wrapped: average = decay * average + (1 - decay) * weights.

    `averaged` is the model to evaluate and to save; BatchNorm's statistics in it are the latest. Checkpoints hold its
    weights under `model`, where every program finds them, and the weights that are trained in the state of this hook.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.averaged = self._average.module

    def after_step(self) -> None:
        self._average.update_parameters(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.model.state_dict(), "n_averaged": int(self._average.n_averaged)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called when the averaged weights have been loaded into the model."""
        self.averaged.load_state_dict(self.model.state_dict())
        self.model.load_state_dict(state_dict["weights"])
        self._average.n_averaged.fill_(state_dict["n_averaged"])


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
