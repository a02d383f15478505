"""Times that wait for the device, split by part of the model, and the memory and peak rate of a machine."""

import contextlib
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn


def synchronize(device: str) -> None:
    """Wait until a CUDA device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


class PartClock:
    """Seconds spent in named parts of a model; `attach` starts it, leaving `attached` stops it."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def time(self, name: str):
        """Add the time of the block to a part's."""
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[name] += time.perf_counter() - start

    @contextlib.contextmanager
    def attached(self, parts: dict[str, list[nn.Module]]):
        """Inside the block, time the forward passes of modules, by the name of their part."""
        handles, starts = [], {}

        def before(module, args):
            synchronize(self.device)
            starts[module] = time.perf_counter()

        def after(name):
            def add(module, args, output):
                synchronize(self.device)
                self.seconds[name] += time.perf_counter() - starts.pop(module)

            return add

        for name, modules in parts.items():
            for module in modules:
                handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after(name))]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()


def repeat(function: Callable[[], object], device: str, repetitions: int, warm_up: int) -> list[float]:
    """Seconds of each of `repetitions` calls, after `warm_up` that do not count."""
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
        "p90_ms": 1000 * ordered[min(len(ordered) - 1, round(0.9 * (len(ordered) - 1)))],
        "repetitions": len(ordered),
    }


def peak_memory_mb(device: str) -> float:
    """Most memory in MiB: of tensors on a GPU since its last reset; on a CPU of the whole process since its start."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_gflops(device: str, dtype: torch.dtype = torch.float32, size: int = 1024, repetitions: int = 5) -> float:
    """The best rate of a square matrix product, in 10^9 operations a second, a multiply-add being two."""
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    seconds = repeat(lambda: matrix @ matrix, device, repetitions, warm_up=1)
    return 2 * size**3 / min(seconds) / 1e9
