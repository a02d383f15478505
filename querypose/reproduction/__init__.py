"""The paper's tables as data, and ours beside them from the folders of finished runs."""

from querypose.reproduction.commands import missing_commands
from querypose.reproduction.report import to_csv, to_markdown, update_block
from querypose.reproduction.runs import Run, find_runs, run_folder
from querypose.reproduction.tables import PROTOCOLS, Row, Table, load_tables

__all__ = [
    "PROTOCOLS",
    "Row",
    "Run",
    "Table",
    "find_runs",
    "load_tables",
    "missing_commands",
    "run_folder",
    "to_csv",
    "to_markdown",
    "update_block",
]
