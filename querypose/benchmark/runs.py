"""The measurements that tools/benchmark.py's flags ask for, and the file of their results."""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from querypose.benchmark.models import PRECISIONS, Benchmark, baseline_config
from querypose.benchmark.reading import images_per_second
from querypose.errors import UserError
from querypose.setup_config import setup_config

BASELINE_NAME = "Keypoint R-CNN R50"
MakeConfig = Callable[..., CfgNode]


class Plan:
    """Functions that measure, in `runs`, by a name that says what they do.

    args: the tool's flags, those of `tools/benchmark.py`.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.runs: dict[str, Callable[[], dict[str, Any]]] = {}
        if args.preset == "gpu":
            self.add_gpu_table()
            return
        name = " ".join([Path(args.config_file).stem, *args.opts])
        kinds = ("inference", "training", "data") if args.what == "all" else (args.what,)
        for kind in kinds:
            if kind == "data":
                self.runs[f"data {name}"] = lambda: {"rows": images_per_second(self.config())}
                continue
            for persons in args.persons or [3 if args.baseline else None]:
                self.add(name, self.config, kind, args.batch, args.precision, persons)
                if args.baseline:
                    self.add(BASELINE_NAME, self.baseline, kind, args.batch, args.precision, persons)

    def add_gpu_table(self) -> None:
        """float32, TF32, bfloat16, compiled, CUDA graphs; training at batch 2 and 16; Keypoint R-CNN beside each."""
        self.add("light", self.config, "inference", 1, "float32", None, "MODEL.QUERYPOSE.TEST.TOPK_POSES", "0")
        for precision in PRECISIONS:
            self.add("light", self.config, "inference", 1, precision, 30)
            self.add(BASELINE_NAME, self.baseline, "inference", 1, precision, 30)
        for mode in ("default", "reduce-overhead"):
            self.add("light", self.config, "inference", 1, "bfloat16", 30, "MODEL.COMPILE", mode)
        queries = "MODEL.QUERYPOSE.TRAIN_QUERIES"
        for batch in (2, 16):
            for precision in ("float32", "bfloat16"):
                self.add("light", self.config, "training", batch, precision, None, queries, "matched")
                self.add(BASELINE_NAME, self.baseline, "training", batch, precision, None)
        self.add("light", self.config, "training", 2, "float32", None, queries, "all")

    def add(
        self, model: str, config: MakeConfig, kind: str, batch: int, precision: str, persons: int | None, *opts: str
    ) -> None:
        """Plan a run; kind: "inference" or "training"; opts: overrides of the config, part of the run's name."""
        height, width = self.args.size
        name = f"{kind}, {' '.join([model, *opts])}, {batch}x{height}x{width}, {precision}"
        options = {"batch": batch, "height": height, "width": width, "precision_name": precision, "persons": persons}
        options |= {"repetitions": self.args.repetitions, "warm_up": self.args.warm_up}
        self.runs[f"{name}, persons {persons}" if persons else name] = lambda: getattr(
            Benchmark(config(*opts), **options), kind
        )()

    def config(self, *opts: str) -> CfgNode:
        return setup_config(self.args.config_file, ["MODEL.WEIGHTS", "", *self.args.opts, *opts])

    def baseline(self) -> CfgNode:
        return baseline_config(self.config().MODEL.DEVICE)


def read_results(path: Path) -> dict[str, Any]:
    """What an earlier call wrote: the machine, and results by run. A UserError for another machine's."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "gpu": gpu}
    machine["torch"] = torch.__version__
    if not path.exists():
        return {"machine": machine, "runs": {}}
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file; give another --output") from error
    if not isinstance(results, dict) or "runs" not in results or results.get("machine") != machine:
        raise UserError(f"{path} holds results of another machine or version; give another --output")
    return results
