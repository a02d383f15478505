"""results.json: what a finished run reached and what it took, for tools/reproduce_tables.py."""

import json
import math
import platform
import statistics
import time
from pathlib import Path

import torch
from detectron2.utils import comm

from querypose.atomic_io import whole_file

_WARM_UP = 5  # forward passes that are not counted


class InferenceTimer:
    """Inside the block, times the forward passes of `model` in evaluation mode, pre- and post-processing included."""

    def __init__(self, model: torch.nn.Module):
        self._model = model
        self._seconds = []

    def __enter__(self):
        self._handles = [
            self._model.register_forward_pre_hook(self._start),
            self._model.register_forward_hook(self._stop),
        ]
        return self

    def __exit__(self, *exception):
        for handle in self._handles:
            handle.remove()

    @property
    def milliseconds(self) -> float | None:
        """Median of a forward pass, which is one image in evaluation; None without enough of them."""
        counted = self._seconds[_WARM_UP:]
        return 1000 * statistics.median(counted) if counted else None

    def _start(self, model, inputs):
        if not model.training:
            _synchronize()
            self._started = time.perf_counter()

    def _stop(self, model, inputs, outputs):
        if not model.training:
            _synchronize()
            self._seconds.append(time.perf_counter() - self._started)


def write_results(cfg, config_file: str, metrics: dict, ms_per_image: float | None) -> None:
    """Write `results.json` into the output folder, whole or not at all; on the main process alone.

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
    """Iterations and their seconds as Detectron2's metrics.json has them; over all parts of a resumed training.

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


def _peak_memory_mb() -> float | None:
    """In MiB: of tensors on a GPU; on a CPU of the whole process, where the system tells."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _plain(value):
    """Nested dicts of numbers that JSON knows: NaN, of classes without ground truth, becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None
