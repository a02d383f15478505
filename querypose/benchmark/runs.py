"""The measurements that tools/benchmark.py's flags ask for, and the file and table of their results."""

import argparse
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from querypose.benchmark.models import PRECISIONS, Benchmark, baseline_config
from querypose.benchmark.movenet import MoveNetMultiPose
from querypose.benchmark.reading import images_per_second
from querypose.data.annotations import read_json
from querypose.errors import UserError
from querypose.setup_config import setup_config

BASELINE_NAME = "Keypoint R-CNN R50"
MOVENET_NAME = "MoveNet MultiPose"
Run = Callable[[], dict[str, Any]]

_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "median ms": lambda run: f"{run['median_ms']:.0f}",
    "p90 ms": lambda run: f"{run['p90_ms']:.0f}",
    "images/s": lambda run: f"{run['images_per_s']:.2f}",
    "persons": lambda run: " or ".join(map(str, run["persons"])),
    "allocated MiB": lambda run: f"{run['peak_memory_mb']:.0f}",
    "parameters (M)": lambda run: f"{run['parameters'] / 1e6:.1f}",
    "GFLOPs": lambda run: f"{run['gflops']:.0f}",
    "parts, in ms": lambda run: ", ".join(f"{part} {value:.0f}" for part, value in run["parts_ms"].items()),
}


def plan(args: argparse.Namespace) -> dict[str, Run]:
    """What the tool's flags ask for, by a name that says what it is."""
    runs: dict[str, Run] = {}
    height, width = args.size

    def config(*opts: str) -> CfgNode:
        return setup_config(args.config_file, ["MODEL.WEIGHTS", "", *args.opts, *opts])

    def add(model: str, kind: str, batch: int, precision: str, persons: int | None, *opts: str) -> None:
        def run() -> dict[str, Any]:
            cfg = config(*opts)
            device = cfg.MODEL.DEVICE
            benchmark = Benchmark(
                baseline_config(device) if model == BASELINE_NAME else cfg,
                batch=batch, height=height, width=width, precision_name=precision, persons=persons,
                repetitions=args.repetitions, warm_up=args.warm_up,
                model=MoveNetMultiPose(args.movenet, device) if model == MOVENET_NAME else None,
            )  # fmt: skip
            return benchmark.inference() if kind == "inference" else benchmark.training()

        name = f"{kind}, {' '.join([model, *opts])}, {batch}x{height}x{width}, {precision}"
        runs[name + (f", persons {persons}" if persons else "")] = run

    if args.preset == "gpu":
        add("light", "inference", 1, "float32", None, "MODEL.QUERYPOSE.TEST.TOPK_POSES", "0")
        for precision in PRECISIONS:
            add("light", "inference", 1, precision, 30)
            add(BASELINE_NAME, "inference", 1, precision, 30)
        for mode in ("default", "reduce-overhead"):
            add("light", "inference", 1, "bfloat16", 30, "MODEL.COMPILE", mode)
        queries = "MODEL.QUERYPOSE.TRAIN_QUERIES"
        for batch in (2, 16):
            for precision in ("float32", "bfloat16"):
                add("light", "training", batch, precision, None, queries, "matched")
                add(BASELINE_NAME, "training", batch, precision, None)
        add("light", "training", 2, "float32", None, queries, "all")
        return runs
    name = " ".join([Path(args.config_file).stem, *args.opts])
    for kind in ("inference", "training", "data") if args.what == "all" else (args.what,):
        if kind == "data":
            runs[f"data {name}"] = lambda: {"reading": images_per_second(config())}
            continue
        models = [name] + [BASELINE_NAME] * args.baseline + [MOVENET_NAME] * bool(args.movenet and kind == "inference")
        for persons in args.persons or [3 if args.baseline or args.movenet else None]:
            for model in models:
                add(model, kind, args.batch, args.precision, persons)
    return runs


def read_results(path: Path) -> dict[str, Any]:
    """What an earlier call wrote: the machine, and results by run. A UserError for another machine's."""
    processor, threads = platform.processor() or platform.machine(), torch.get_num_threads()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = {"processor": processor, "threads": threads, "gpu": gpu, "torch": torch.__version__}
    if not path.exists():
        return {"machine": machine, "runs": {}}
    results = read_json(path, "results")
    if not isinstance(results, dict) or "runs" not in results or results.get("machine") != machine:
        raise UserError(f"{path} holds results of another machine or version; give another --output")
    return results


def to_markdown(results: dict[str, Any]) -> str:
    """A line for each model, and one for each way to read images; `results` as the tool's JSON."""
    lines = [", ".join(f"{name} {value}" for name, value in results["machine"].items())]
    runs = results["runs"].items()
    models = [[name, *(text(run) for text in _COLUMNS.values())] for name, run in runs if "reading" not in run]
    reading = [[what, f"{rate:.0f}"] for _, run in runs for what, rate in run.get("reading", {}).items()]
    for rows, header in ((models, ["run", *_COLUMNS]), (reading, ["reading, one process", "images/s"])):
        if rows:
            lines += ["", tabulate(rows, header, tablefmt="github", disable_numparse=True)]
    return "\n".join(lines) + "\n"
