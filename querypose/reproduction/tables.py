"""Tables of a protocol: rows, their configs and what the paper reports of them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from detectron2.config import CfgNode

from querypose.setup_config import setup_config

REPOSITORY = Path(__file__).resolve().parents[2]
PROTOCOLS = ("paper", "minicoco", "synthetic_people")
"""The paper's tables, and rows of them on Mini-COCO and on synthetic people (docs/EXPERIMENTS.md)."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    labels: the row's labels, by the table's label columns. paper: the paper's value for each column, or None.
    config: of the run that fills the row, relative to the repository; None for other methods. train: where
    the config only evaluates, that of the training run that makes its weights.
    """

    labels: tuple[str, ...]
    paper: tuple[float | None, ...]
    config: str | None = None
    train: str | None = None


@dataclass(frozen=True)
class Table:
    """columns: those of the paper; `our_columns`: the metrics of our runs."""

    name: str
    title: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def our_columns(self) -> tuple[str, ...]:
        """The paper's columns, then box AP and time where the paper's table leaves them out."""
        return (*self.columns, *(column for column in ("AP box", "Time [ms]") if column not in self.columns))


def load_tables(protocol: str = "paper") -> list[Table]:
    """The tables of one of `PROTOCOLS`, in their order."""
    name = "paper" if protocol == "paper" else "small"
    text = (Path(__file__).parent / f"{name}_tables.json").read_text()
    records = json.loads(text.replace("{protocol}", protocol))
    return [
        Table(
            record["name"],
            record["title"],
            tuple(record["labels"]),
            tuple(record["columns"]),
            tuple(
                Row(tuple(row["labels"]), tuple(row["paper"]), row.get("config"), row.get("train"))
                for row in record["rows"]
            ),
        )
        for record in records
        if record.get("protocol", protocol) == protocol
    ]


@cache
def config_of(file: str) -> CfgNode:
    """The config of a row, by its file relative to the repository."""
    cfg = setup_config(str(REPOSITORY / file))
    cfg.freeze()
    return cfg
