"""Finished runs in an output folder, and whether each is what its row says."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from querypose.config_checks import leaves
from querypose.data import annotation_file
from querypose.errors import UserError
from querypose.evaluation import keypoint_errors
from querypose.reproduction.tables import Row, config_of, load_tables

# without influence on the result, or of which another key says more
_IGNORED = (
    "OUTPUT_DIR", "SEED", "VERSION", "CUDNN_BENCHMARK", "VIS_PERIOD", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE",
    "MODEL.QUERYPOSE.SKELETON", "MODEL.QUERYPOSE.PART_DIVISION", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD",
    "TEST.EVALUATOR_BACKEND", "MODEL.WEIGHTS",
)  # fmt: skip
_IGNORED_IN_EVALUATION = (
    "SOLVER", "DATASETS.TRAIN", "INPUT.CROP", "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN",
)  # fmt: skip
# columns whose metric has another task or name in the results
_METRIC = {
    "APM": ("keypoints", "APm"),
    "APL": ("keypoints", "APl"),
    "AP box": ("bbox", "AP"),
    "AP kps": ("keypoints", "AP"),
}


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its results.json and in what its config differs from the row's."""

    folder: Path
    results: dict[str, Any]
    differences: tuple[str, ...]

    def figure(self, column: str) -> float | None:
        """The run's value for a column of a table (AP, APM, AP box, OKS, Time [ms] ..), None if it has none."""
        if column == "Time [ms]":
            return self.results.get("ms_per_image")
        if column == "OKS":
            return _mean_oks(self.folder)
        task, name = _METRIC.get(column, ("keypoints", column))
        metrics = self.results["metrics"].get(task, {})
        # CrowdPose's APM is of medium images, COCO's APm of medium persons
        return metrics.get(column if task == "keypoints" and column in metrics else name)


@cache
def _mean_oks(folder: Path) -> float | None:
    """Mean OKS of the persons' best poses in percent, of the results that the run's evaluation left behind."""
    file = folder / "inference" / "coco_instances_results.json"
    if not file.is_file():
        return None
    (dataset,) = yaml.safe_load((folder / "config.yaml").read_text())["DATASETS"]["TEST"]
    return keypoint_errors(annotation_file(dataset), json.loads(file.read_text())).to_dict()["mean_oks"]


def run_folder(config: str, output: Path, seed: int | None = None) -> Path:
    """The folder of a config's run: equal configs of the ablations share that of the first of them."""
    name = first_config_like(config).removeprefix("configs/").removesuffix(".yaml")
    return output / (name if seed is None else f"{name}_seed{seed}")


def find_runs(row: Row, output: Path) -> list[Run]:
    """The finished runs of a row (results.json is the mark), of every seed.

    Raises:
        UserError: a results.json that cannot be read, or a run of another model in the row's folder.
    """
    if row.config is None:
        return []
    folder = run_folder(row.config, output)
    with_seed = re.compile(re.escape(folder.name) + r"_seed\d+")
    siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
    folders = [folder, *sorted(path for path in siblings if with_seed.fullmatch(path.name))]
    return [_read(row, path) for path in folders if (path / "results.json").is_file()]


def first_config_like(config: str) -> str:
    """The first config of the paper's ablations that is the same as this one, or this one itself."""
    if "/ablations/" not in config:
        return config
    mine = config_of(config)
    others = (row.config for table in load_tables("paper") for row in table.rows if row.config)
    return next(other for other in others if other == config or config_of(other) == mine)


def _read(row: Row, folder: Path) -> Run:
    try:
        results = json.loads((folder / "results.json").read_text())
        ran = yaml.safe_load((folder / "config.yaml").read_text())
        results["metrics"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{folder} has a results.json but is not a complete run ({type(error).__name__}: {error}); move it away"
        ) from error
    differences = tuple(_differences(config_of(str(row.config)), ran, evaluation=row.train is not None))
    wrong = [text for text in differences if text.startswith("MODEL.")]
    if wrong:
        raise UserError(f"the run in {folder} is not of {row.config}: {wrong[0]}; move it away and run the row")
    return Run(folder, results, differences)


def _differences(wanted: CfgNode, ran: dict[str, Any], evaluation: bool) -> Iterator[str]:
    """Sentences such as 'SOLVER.MAX_ITER 1000 instead of 140000'."""
    skipped = _IGNORED + (_IGNORED_IN_EVALUATION if evaluation else ())
    if wanted.MODEL.META_ARCHITECTURE != "QueryPose":
        skipped += ("MODEL.QUERYPOSE",)
    found = dict(leaves(CfgNode(ran)))
    for key, value in leaves(CfgNode(yaml.safe_load(wanted.dump()))):
        if key in found and found[key] != value and not f"{key}.".startswith(tuple(f"{skip}." for skip in skipped)):
            yield f"{key} {found[key]} instead of {value}"
