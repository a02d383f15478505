"""The commands that fill the rows without a run."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from querypose.reproduction.runs import run_folder
from querypose.reproduction.tables import Table


@dataclass(frozen=True)
class Command:
    """A command line, run in the repository's root, and the file that it writes last."""

    arguments: tuple[str, ...]
    leaves: Path

    def __str__(self) -> str:
        return "python " + shlex.join(self.arguments[1:])


def missing_commands(
    tables: list[Table], output: Path, num_gpus: int = 1, seeds: Sequence[int] = (), opts: Sequence[str] = ()
) -> list[Command]:
    """Commands for the rows that have no finished run, each once, training before evaluation.

    An interrupted run resumes from its last checkpoint (`--resume`).

    Args:
        tables: the tables to fill.
        output: folder of the runs.
        num_gpus: of every command.
        seeds: one run of each row for every seed; none: one run with the config's own.
        opts: KEY VALUE overrides for every command.
    """
    commands: dict[Path, Command] = {}

    def plan(tool: str, config: str, folder: Path, leaves: str, options: list[str]) -> None:
        if not (folder / leaves).is_file() and folder not in commands:
            arguments = [sys.executable, f"tools/{tool}", "--config-file", config, "--num-gpus", str(num_gpus)]
            commands[folder] = Command((*arguments, *options), folder / leaves)

    for table in tables:
        for row in table.rows:
            if row.config is None:
                continue
            for seed in seeds or (None,):
                folder = run_folder(row.config, output, seed)
                if (folder / "results.json").is_file():
                    continue
                own = [*([] if seed is None else ["SEED", str(seed)]), *opts]
                if row.train is None:
                    options = ["--resume", "OUTPUT_DIR", str(folder), *own]
                    plan("train_net.py", row.config, folder, "results.json", options)
                    continue
                trained = run_folder(row.train, output, seed)
                options = ["--resume", "OUTPUT_DIR", str(trained), *own]
                plan("train_net.py", row.train, trained, "model_final.pth", options)
                weights = ["MODEL.WEIGHTS", str(trained / "model_final.pth")]
                options = ["OUTPUT_DIR", str(folder), *own, *weights]
                plan("test_net.py", row.config, folder, "results.json", options)
    return list(commands.values())
