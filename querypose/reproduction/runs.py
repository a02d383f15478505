"""The rows of the paper's tables, their finished runs in an output folder, and the commands for rows without one."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from querypose.config_checks import leaves
from querypose.errors import UserError
from querypose.evaluation import keypoint_errors
from querypose.setup_config import setup_config

REPOSITORY = Path(__file__).resolve().parents[2]
PROTOCOLS = ("paper", "minicoco", "synthetic_people")
"""The paper's tables, rows of them on Mini-COCO (docs/EXPERIMENTS.md), and additions to it on synthetic people."""

# without influence on the result, or of which another key says more
_IGNORED = (
    "OUTPUT_DIR", "SEED", "VERSION", "CUDNN_BENCHMARK", "VIS_PERIOD", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE",
    "MODEL.QUERYPOSE.SKELETON", "MODEL.QUERYPOSE.PART_DIVISION", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD",
    "TEST.EVALUATOR_BACKEND", "MODEL.WEIGHTS", "MODEL.BACKBONE.ACTIVATION_CHECKPOINTING", "MODEL.COMPILE",
    "MODEL.CHANNELS_LAST",
)  # fmt: skip
_IGNORED_IN_EVALUATION = ("SOLVER", "DATASETS.TRAIN", "INPUT.CROP", "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN")
# columns whose metric has another task or name in the results
_METRIC = {"APM": "keypoints APm", "APL": "keypoints APl", "AP box": "bbox AP", "AP kps": "keypoints AP"}


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table: what the paper reports by column, and the config, relative to the repository, of our run.

    config: None for the methods of others. train: where the config only evaluates, that of the run that trains for it.
    """

    labels: list[str]
    paper: list[float | None]
    config: str | None = None
    train: str | None = None


@dataclass(frozen=True, eq=False)
class Table:
    name: str
    title: str
    labels: list[str]
    columns: list[str]
    rows: list[Row]

    @property
    def our_columns(self) -> list[str]:
        """The metrics of our runs: the paper's columns, then box AP and time where it leaves them out."""
        return [*self.columns, *(column for column in ("AP box", "Time [ms]") if column not in self.columns)]


def load_tables(protocol: str = "paper") -> list[Table]:
    """The tables of one of `PROTOCOLS`, in their order."""
    file = Path(__file__).with_name("paper_tables.json" if protocol == "paper" else "small_tables.json")
    records = json.loads(file.read_text())
    return [
        Table(**{**record, "rows": [Row(**row) for row in record["rows"]]})
        for record in records
        if record.pop("protocol", protocol) == protocol
    ]


@cache
def config_of(file: str) -> CfgNode:
    return setup_config(str(REPOSITORY / file))


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
        task, name = _METRIC.get(column, f"keypoints {column}").split()
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
    return keypoint_errors(dataset, json.loads(file.read_text()))["mean_oks"]


def run_folder(config: str, output: Path, seed: int | None = None) -> Path:
    """The folder of a config's run: equal configs of the paper's ablations share that of the first of them."""
    if "/ablations/" in config:
        others = (row.config for table in load_tables() for row in table.rows if row.config)
        config = next(other for other in others if other == config or config_of(other) == config_of(config))
    name = config.removeprefix("configs/").removesuffix(".yaml")
    return output / (name if seed is None else f"{name}_seed{seed}")


def find_runs(row: Row, output: Path) -> list[Run]:
    """The finished runs of a row (results.json is the mark), of every seed; `UserError` for one of another model."""
    if row.config is None:
        return []
    folder = run_folder(row.config, output)
    files = [folder / "results.json", *sorted(folder.parent.glob(f"{folder.name}_seed[0-9]*/results.json"))]
    return [_read(row, file.parent) for file in files if file.is_file()]


def _read(row: Row, folder: Path) -> Run:
    try:
        results = json.loads((folder / "results.json").read_text())
        ran = yaml.safe_load((folder / "config.yaml").read_text())
        results["metrics"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder} has a results.json but is not a complete run ({error!r}); move it away") from error
    differences = tuple(_differences(config_of(str(row.config)), ran, evaluation=row.train is not None))
    wrong = [text for text in differences if text.startswith("MODEL.")]
    if wrong:
        raise UserError(f"the run in {folder} is not of {row.config}: {wrong[0]}; move it away and run the row")
    return Run(folder, results, differences)


def _differences(wanted: CfgNode, ran: dict[str, Any], evaluation: bool) -> Iterator[str]:
    """Sentences such as 'SOLVER.MAX_ITER 1000 instead of 140000'."""
    skipped = _IGNORED + _IGNORED_IN_EVALUATION * evaluation
    if wanted.MODEL.META_ARCHITECTURE != "QueryPose":
        skipped += ("MODEL.QUERYPOSE",)
    found = dict(leaves(CfgNode(ran)))
    for key, value in leaves(CfgNode(yaml.safe_load(wanted.dump()))):
        if key in found and found[key] != value and not f"{key}.".startswith(tuple(f"{skip}." for skip in skipped)):
            yield f"{key} {found[key]} instead of {value}"


def missing_commands(
    tables: list[Table], output: Path, num_gpus: int = 1, seeds: Sequence[int] = (), opts: Sequence[str] = ()
) -> dict[Path, list[str]]:
    """Command lines for the rows without a finished run, each once and in order, by the file that each writes last.

    They are run in the repository's root; an interrupted one resumes. Without `seeds` the config's own is taken.
    """
    commands: dict[Path, list[str]] = {}

    def plan(tool: str, config: str, file: Path, seed: int | None, *weights: str) -> None:
        if not file.is_file():
            command = [sys.executable, f"tools/{tool}.py", "--config-file", config, "--num-gpus", str(num_gpus)]
            command += ["--resume"] if tool == "train_net" else []
            own = [] if seed is None else ["SEED", str(seed)]
            commands.setdefault(file, [*command, "OUTPUT_DIR", str(file.parent), *own, *opts, *weights])

    for table in tables:
        for row in table.rows:
            if row.config is None:
                continue
            for seed in seeds or (None,):
                results = run_folder(row.config, output, seed) / "results.json"
                if row.train is None:
                    plan("train_net", row.config, results, seed)
                elif not results.is_file():
                    trained = run_folder(row.train, output, seed) / "model_final.pth"
                    plan("train_net", row.train, trained, seed)
                    plan("test_net", row.config, results, seed, "MODEL.WEIGHTS", str(trained))
    return commands
