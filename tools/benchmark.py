"""Measure latency, training steps, their parts, memory, and the reading of images.

    python tools/benchmark.py --config-file configs/querypose_light_R50.yaml --what inference [--peer] \\
        [--persons 1 3 10 20] --output output/benchmark.json [KEY VALUE ..]
    python tools/benchmark.py --preset gpu --output output/gpu.json      # all of docs/BENCHMARKS.md's GPU table

Every result is written as soon as it is there; an interrupted call resumes with the same --output.
"""

import argparse
import itertools
import json
import platform
import time
from pathlib import Path

import querypose  # noqa: F401  (first: it silences a warning of fvcore's)

# isort: split
import torch
from detectron2.config import CfgNode

from querypose.benchmark.models import PRECISIONS, Benchmark, baseline_config
from querypose.benchmark.reading import images_per_second
from querypose.benchmark.table import to_markdown
from querypose.errors import UserError, exit_on_user_error
from querypose.setup_config import setup_config

LIGHT = "configs/querypose_light_R50.yaml"
MATCHED = ["MODEL.QUERYPOSE.TRAIN_QUERIES", "matched"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", default=LIGHT, help=f"default {LIGHT}")
    parser.add_argument("--what", choices=("inference", "training", "data", "all"), default="all")
    parser.add_argument("--baseline", "--peer", action="store_true", help="also Detectron2's Keypoint R-CNN R50-FPN")
    parser.add_argument("--preset", choices=("gpu",), help="the runs of the GPU table, instead of --what")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=1, help="images at a time (training: in a step)")
    parser.add_argument(
        "--persons",
        type=int,
        nargs="+",
        help="persons in an image; inference runs the keypoint heads for exactly that many, a run for each number. "
        "Default: 3; inference without --peer: as the config says",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=9.0, help="start no further measurement after that long")
    parser.add_argument("--output", default="output/benchmark.json", help="results, as JSON")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args()
    if min(args.size) < 32 or min(args.batch, args.repetitions, *args.persons or [1]) < 1 or args.warm_up < 0:
        raise UserError("--size must be at least 32 32, --batch, --repetitions and --persons 1, --warm-up 0")

    path = Path(args.output)
    results = read_results(path)
    deadline = time.monotonic() + 60 * args.minutes
    for name, run in runs(args).items():
        if name in results["runs"]:
            print(f"{name}: done before")
            continue
        if time.monotonic() > deadline:
            print(f"{name}: left for another call with --output {path}")
            continue
        results["runs"][name] = run()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1))
        print(row(name, results["runs"][name]), flush=True)
    table = path.with_suffix(".md")
    table.write_text(to_markdown(results))
    print(f"written to {path} and, as a table, to {table}")


def runs(args: argparse.Namespace) -> dict:
    """Functions that measure, by a name that says what they do."""
    if args.preset == "gpu":
        return gpu_runs(args)
    kinds = ("inference", "training", "data") if args.what == "all" else (args.what,)
    found = {}
    for kind in kinds:
        if kind == "data":
            name = " ".join(["data", Path(args.config_file).stem, *args.opts])
            found[name] = lambda: {"rows": images_per_second(setup(args.config_file, args.opts))}
            continue
        models = {" ".join([Path(args.config_file).stem, *args.opts]): lambda: setup(args.config_file, args.opts)}
        if args.baseline:
            models["Keypoint R-CNN R50"] = lambda: baseline_config(setup(args.config_file, []).MODEL.DEVICE)
        size = f"{args.batch}x{args.size[0]}x{args.size[1]}"
        for persons, (model, cfg) in itertools.product(args.persons or [3 if args.baseline else None], models.items()):
            name = f"{kind}, {model}, {size}, {args.precision}" + (f", persons {persons}" if persons else "")
            numbers = (kind, args.batch, args.precision, persons)
            found[name] = lambda cfg=cfg, numbers=numbers: measure(args, cfg(), *numbers)
    return found


def gpu_runs(args: argparse.Namespace) -> dict:
    """float32, TF32, bfloat16, compiled, CUDA graphs; training at batch 2 and 16; Keypoint R-CNN beside each."""
    found = {}

    def add(name, cfg, kind, batch, precision, persons=None):
        name = f"{kind}, {name}, batch {batch}, {precision}" + (f", persons {persons}" if persons else "")
        found[name] = lambda: measure(args, cfg(), kind, batch, precision, persons)

    def light(*opts):
        return lambda: setup(args.config_file, [*args.opts, *opts])

    def baseline():
        return baseline_config(setup(args.config_file, args.opts).MODEL.DEVICE)

    add("light, every query", light("MODEL.QUERYPOSE.TEST.TOPK_POSES", "0"), "inference", 1, "float32")
    for precision in PRECISIONS:
        add("light", light(), "inference", 1, precision, 30)
        add("Keypoint R-CNN R50", baseline, "inference", 1, precision, 30)
    for mode in ("default", "reduce-overhead"):
        add(f"light, COMPILE {mode}", light("MODEL.COMPILE", mode), "inference", 1, "bfloat16", 30)
    for batch in (2, 16):
        for precision in ("float32", "bfloat16"):
            add("light, matched queries", light(*MATCHED), "training", batch, precision)
            add("Keypoint R-CNN R50", baseline, "training", batch, precision)
    add("light, every query", light("MODEL.QUERYPOSE.TRAIN_QUERIES", "all"), "training", 2, "float32")
    return found


def setup(config_file: str, opts: list[str]) -> CfgNode:
    return setup_config(config_file, ["MODEL.WEIGHTS", "", *opts])


def measure(args: argparse.Namespace, cfg: CfgNode, kind: str, batch: int, precision: str, persons: int | None) -> dict:
    height, width = args.size
    numbers = {"persons": persons, "repetitions": args.repetitions, "warm_up": args.warm_up}
    benchmark = Benchmark(cfg, batch=batch, height=height, width=width, precision_name=precision, **numbers)
    return getattr(benchmark, kind)()


def read_results(path: Path) -> dict:
    """What an earlier call wrote, if it is of this machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "gpu": gpu}
    machine["torch"] = torch.__version__
    if not path.exists():
        return {"machine": machine, "runs": {}}
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON file; give another --output") from error
    usable = isinstance(results, dict) and "runs" in results and results.get("machine") == machine
    if not usable or any("rows" not in run and "keypoint_rows" not in run for run in results["runs"].values()):
        raise UserError(f"{path} holds results of another machine or version; give another --output")
    return results


def row(name: str, result: dict) -> str:
    """One line on the terminal; the table has all numbers."""
    if "rows" in result:
        return f"{name}, images/s: " + "; ".join(f"{one['what']}: {one['images_per_s']:.0f}" for one in result["rows"])
    parts = ", ".join(f"{part} {value:.0f}" for part, value in result["parts_ms"].items())
    return (
        f"{name}: median {result['median_ms']:.0f} ms, {result['images_per_s']:.2f} images/s, "
        f"{result['gflops']:.0f} GFLOPs, {result['peak_memory_mb']:.0f} MiB allocated, "
        f"boxes {result['box_rows']}, persons {result['keypoint_rows']} ({parts})"
    )


if __name__ == "__main__":
    with exit_on_user_error():
        main()
