"""results.json: what a finished run reached and what it took, for tools/reproduce_tables.py."""

import contextlib
import json
import platform
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from querypose.atomic_io import whole_file, writing


def now() -> float:
    """The time in seconds when a GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def timed_inference(model: nn.Module) -> Iterator[list[float]]:
    """Yields a list that gets the seconds of the block's forward passes in evaluation mode."""
    seconds: list[float] = []

    def start(*_: Any) -> None:
        if not model.training:
            seconds.append(-now())

    def stop(*_: Any) -> None:
        if not model.training:
            seconds[-1] += now()

    with model.register_forward_pre_hook(start), model.register_forward_hook(stop):
        yield seconds


def write_results(cfg: CfgNode, metrics: dict[str, Any] | None, seconds: list[float]) -> None:
    """Write `results.json` on the main process; metrics: of `PoseTrainer.test`; seconds: of `timed_inference`."""
    if not comm.is_main_process():
        return
    folder, counted = Path(cfg.OUTPUT_DIR), seconds[5:]  # the first ones are slower
    iterations, training_seconds = training_effort(folder / "metrics.json")
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    memory = torch.cuda.max_memory_allocated(cfg.MODEL.DEVICE) if on_gpu else used
    threads = f"{torch.get_num_threads()} threads of a CPU ({platform.machine()})"
    record = {
        # NaN, of classes without ground truth, becomes null
        "metrics": json.loads(json.dumps(metrics or {}, default=float), parse_constant=lambda _: None),
        "ms_per_image": 1000 * statistics.median(counted) if counted else None,
        "iterations": iterations,
        "training_seconds": training_seconds,
        "images_per_batch": cfg.SOLVER.IMS_PER_BATCH,
        "seed": cfg.SEED,
        "peak_memory_mb": memory / 2**20,  # allocated on a GPU; of the whole process on a CPU
        "hardware": torch.cuda.get_device_name(cfg.MODEL.DEVICE) if on_gpu else threads,
        "processes": comm.get_world_size(),
    }
    with writing(folder, "free disk space"), whole_file(folder / "results.json") as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())


def training_effort(metrics_file: Path) -> tuple[int | None, float | None]:
    """Iterations and their seconds from Detectron2's metrics.json; those done twice count once."""
    times = {}
    for line in metrics_file.read_text(errors="replace").splitlines() if metrics_file.is_file() else []:
        with contextlib.suppress(ValueError):  # of a line that a killed run left unfinished
            record = json.loads(line)
            if "total_loss" in record or "time" in record:  # the first few iterations are not timed
                times[record["iteration"] + 1] = record.get("time", 0.0)
    done = sorted(times)
    seconds = sum(times[now] * (now - before) for before, now in zip([0, *done], done, strict=False))
    return (done[-1], seconds) if done else (None, None)
