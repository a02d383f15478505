"""Times that wait for the device, in all and by part of the model, memory, and the peak rate of the machine."""

import contextlib
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile


def synchronize(device: str) -> None:
    """Wait until a CUDA device has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


class PartClock:
    """Seconds spent in named parts of a model."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part's."""
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[name] += time.perf_counter() - start

    @contextlib.contextmanager
    def attached(self, parts: dict[str, list[tuple[Any, str]]]) -> Iterator[None]:
        """Inside the block, time methods, (object, name) each, by the name of their part."""
        with contextlib.ExitStack() as stack:
            for part, methods in parts.items():
                for owner, name in methods:
                    # as a decorator, the context manager starts anew in each call
                    stack.enter_context(mock.patch.object(owner, name, self.time(part)(getattr(owner, name))))
            yield


def repeat(function: Callable[[], object], device: str, repetitions: int, warm_up: int) -> list[float]:
    """Seconds of each of `repetitions` calls, after `warm_up` calls that are not measured."""
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(repetitions):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and 90th percentile in milliseconds."""
    ordered = sorted(seconds)
    return {
        "median_ms": 1000 * statistics.median(ordered),
        "p90_ms": 1000 * ordered[round(0.9 * (len(ordered) - 1))],
        "repetitions": len(ordered),
    }


def peak_allocated_mb(function: Callable[[], object], device: str, held: Iterable[Tensor]) -> float:
    """The most memory in MiB that tensors occupy during a call: on a CPU `held` and what the call allocates."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() / 2**20
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    most = max(itertools.accumulate((event.nbytes() for event in changes), initial=0))
    return (sum(storages.values()) + most) / 2**20


def peak_gflops(device: str, dtype: torch.dtype = torch.float32, size: int = 1024, repetitions: int = 5) -> float:
    """The best rate of a square matrix product or a 3x3 convolution of as much work, in 10^9 operations a second.

    A multiply-add is two operations. Two libraries compute the two on a CPU, and either may be the faster one.
    """
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    channels = size // 4
    side = round((16 * size / 9) ** 0.5)
    maps = torch.randn(1, channels, side, side, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.no_grad():
        product = min(repeat(lambda: matrix @ matrix, device, repetitions, warm_up=1))
        convolution = min(repeat(lambda: functional.conv2d(maps, weight, padding=1), device, repetitions, warm_up=1))
    return max(2 * size**3 / product, 2 * 9 * channels**2 * side**2 / convolution) / 1e9
