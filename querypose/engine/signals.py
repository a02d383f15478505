"""SIGTERM and Ctrl-C end a training between two iterations, with a checkpoint."""

import signal
import threading
import time

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from querypose.engine.processes import host_group

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A terminal sends Ctrl-C to every process, and a launcher passes it on: the same one, twice.
_ECHO_SECONDS = 2.0


class Interrupted(SystemExit):
    """A signal has asked for the end; left alone, the process ends with code 128 + its number, as shells expect."""

    def __init__(self, signum: int, between_steps: bool):
        """between_steps: whether the model is in the state after an iteration, which can be saved."""
        super().__init__(128 + signum)
        self.signal_name = signal.Signals(signum).name
        self.between_steps = between_steps


class StopOnSignal(HookBase):
    """Raises `Interrupted` in every process after the iteration in which any of them was told to end.

    During an evaluation a single process raises it at once; several wait for its end, as they have to stay together. A
    second signal, two seconds later or more, ends the process on the spot.
    """

    def __init__(self):
        self._received = 0
        self._at = 0.0
        self._in_step = False
        self._before = {}

    def before_train(self):
        self._group = host_group()
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            self._before = {signum: signal.signal(signum, self._on_signal) for signum in SIGNALS}

    def before_step(self):
        self._in_step = True

    def after_step(self):
        self._received = self._anywhere()
        if self._received and self.trainer.iter < self.trainer.max_iter - 1:
            raise Interrupted(self._received, between_steps=True)
        self._in_step = False

    def after_train(self):
        self.restore()
        if self._received and self.trainer.iter >= self.trainer.max_iter:
            # the last iteration is saved; the evaluation, which comes next, can be done of that
            raise Interrupted(self._received, between_steps=True)

    def restore(self):
        """Give the signals back to who had them before."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _anywhere(self) -> int:
        """The signal that a process has received, in all processes; 0 for none. Talks through the hosts, not GPUs."""
        received = torch.tensor(self._received)
        if self._group is not None:
            dist.all_reduce(received, op=dist.ReduceOp.MAX, group=self._group)
        return int(received)

    def _on_signal(self, signum, frame):
        now = time.monotonic()
        again = self._received and now - self._at > _ECHO_SECONDS
        if not self._received:
            self._received, self._at = signum, now
        if again or (not self._in_step and comm.get_world_size() == 1):
            raise Interrupted(signum, between_steps=not self._in_step)
