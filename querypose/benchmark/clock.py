"""Times that wait for the device, in all and by part of the model, and memory."""

import contextlib
import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from querypose.engine.run_summary import now

Parts = dict[str, list[tuple[Any, str]]]
"""Methods, (object, name) each, by the name of their part."""


class PartClock:
    """Seconds spent in named parts of a model."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part's."""
        start = now()
        yield
        self.seconds[name] += now() - start

    @contextlib.contextmanager
    def attached(self, parts: Parts) -> Iterator[None]:
        """Inside the block, time methods by the name of their part."""
        with contextlib.ExitStack() as stack:
            for part, methods in parts.items():
                for owner, name in methods:
                    # as a decorator, the context manager starts anew in each call
                    stack.enter_context(mock.patch.object(owner, name, self.time(part)(getattr(owner, name))))
            yield


def repeat(function: Callable[[], object], repetitions: int, warm_up: int) -> list[float]:
    """Seconds of each of `repetitions` calls, after `warm_up` calls that are not measured."""
    seconds = []
    for _ in range(warm_up + repetitions):
        start = now()
        function()
        seconds.append(now() - start)
    return seconds[warm_up:]


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and 90th percentile in milliseconds."""
    median, p90 = 1000 * statistics.median(seconds), 1000 * float(np.percentile(seconds, 90))
    return {"median_ms": median, "p90_ms": p90, "repetitions": len(seconds)}


def peak_allocated_mb(function: Callable[[], object], device: str, held: Iterable[Tensor]) -> float:
    """The most memory in MiB that tensors occupy during a call: on a CPU `held` and what the call allocates."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) / 2**20
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    most = max(itertools.accumulate((event.nbytes() for event in changes), initial=0))
    return (sum(storages.values()) + most) / 2**20
