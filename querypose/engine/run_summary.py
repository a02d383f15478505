"""results.json: what a finished run reached and what it took, for tools/reproduce_tables.py."""

import json
import math
import platform
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from querypose.atomic_io import whole_file

_WARM_UP = 5  # forward passes that are not counted


class InferenceTimer:
    """Inside the block, times the forward passes of `model` in evaluation mode, pre- and post-processing included."""

    def __init__(self, model: nn.Module):
        self._model = model
        self._seconds: list[float] = []

    def __enter__(self) -> "InferenceTimer":
        self._handles = [
            self._model.register_forward_pre_hook(self._start),
            self._model.register_forward_hook(self._stop),
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def milliseconds(self) -> float | None:
        """Median of a forward pass, which is one image in evaluation; None without enough of them."""
        counted = self._seconds[_WARM_UP:]
        return 1000 * statistics.median(counted) if counted else None

    def _start(self, model: nn.Module, inputs: Any) -> None:
        self._started = self._now(model)

    def _stop(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        if not model.training:
            self._seconds.append(self._now(model) - self._started)

    @staticmethod
    def _now(model: nn.Module) -> float:
        if torch.cuda.is_available() and not model.training:
            torch.cuda.synchronize()
        return time.perf_counter()


def write_results(cfg: CfgNode, config_file: str, metrics: dict | None, ms_per_image: float | None) -> None:
    """Write `results.json` atomically into the output folder, on the main process.

    Args:
        metrics: of `PoseTrainer.test`: task -> name -> percent, or the same by data set where there are several.
        ms_per_image: median time of the model on an image.
    """
    if not comm.is_main_process():
        return
    folder = Path(cfg.OUTPUT_DIR)
    iterations, seconds = training_effort(folder / "metrics.json")
    record = {
        "config_file": str(config_file),
        "test_sets": list(cfg.DATASETS.TEST),
        "metrics": _plain(metrics or {}),
        "ms_per_image": ms_per_image,
        "iterations": iterations,
        "training_seconds": seconds,
        "images_per_batch": cfg.SOLVER.IMS_PER_BATCH,
        "seed": cfg.SEED,
        "peak_memory_mb": _peak_memory_mb(),
        "hardware": hardware(),
        "processes": comm.get_world_size(),
    }
    with whole_file(folder / "results.json") as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())


def training_effort(metrics_file: Path) -> tuple[int | None, float | None]:
    """Iterations and their seconds from Detectron2's metrics.json, over all parts of a resumed run.

    An iteration that was done twice, before and after an interruption, counts once. (None, None) without training.
    """
    times = {}
    if metrics_file.is_file():
        for line in metrics_file.read_text().splitlines():
            record = json.loads(line)
            if "total_loss" in record or "time" in record:  # the first few iterations are not timed
                times[record["iteration"] + 1] = record.get("time", 0.0)
    done = sorted(times)
    seconds = sum(times[now] * (now - before) for before, now in zip([0, *done], done, strict=False))
    return (done[-1], seconds) if done else (None, None)


def hardware() -> str:
    """The GPU's name, or the number of threads and the processor's kind."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads of a CPU ({platform.machine()})"


def _peak_memory_mb() -> float:
    """In MiB: allocated on a GPU; on a CPU by the whole process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _plain(value: Any) -> Any:
    """Nested dicts of numbers for JSON: NaN, of classes without ground truth, becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None
