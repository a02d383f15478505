"""SIGTERM and Ctrl-C end training between two iterations, with a checkpoint."""

import signal
import threading
import time
from types import FrameType
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

_ECHO_SECONDS = 2.0  # a terminal sends Ctrl-C to every process, and the launcher passes it on: the same one, twice


class Interrupted(SystemExit):
    """Ends the process with code 128 + the signal; `between_steps`: the state after an iteration can be saved."""

    def __init__(self, signum: int, between_steps: bool):
        super().__init__(128 + signum)
        self.signal_name = signal.Signals(signum).name
        self.between_steps = between_steps


class StopOnSignal(HookBase):
    """Raises `Interrupted` in every process after the same iteration once any of them has received a signal.

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
        again = self._received and time.monotonic() - self._at > _ECHO_SECONDS
        if not self._received:
            self._received, self._at = signum, time.monotonic()
        if again or (not self._in_step and comm.get_world_size() == 1):
            raise Interrupted(signum, between_steps=not self._in_step)
