#!/usr/bin/env python3
"""The paper's tables with our runs beside them, and the commands for the rows that have none.

Examples:
    python tools/reproduce_tables.py                                   # writes output/tables/tables.md and .csv
    python tools/reproduce_tables.py --tables table2a --num-gpus 8 --launch        # prints the missing commands
    python tools/reproduce_tables.py --tables table2a --num-gpus 8 --launch run    # runs them, one after another
    python tools/reproduce_tables.py --protocol minicoco --update docs/EXPERIMENTS.md

An interrupted `--launch run` resumes when it is started again.
"""

import shlex
import subprocess
from pathlib import Path

from querypose.atomic_io import make_output_folder
from querypose.cli import run_tool, tool_parser
from querypose.errors import UserError
from querypose.reproduction.report import to_csv, to_markdown, update_block
from querypose.reproduction.runs import PROTOCOLS, REPOSITORY, find_runs, load_tables, missing_commands


def main(arguments=None):
    parser = tool_parser(__doc__.split("\n")[0])
    add = parser.add_argument
    add("--protocol", choices=PROTOCOLS, default="paper", help="which tables (default paper)")
    add("--tables", nargs="+", metavar="NAME", help="only these, such as table1 table2a")
    add("--output", type=Path, default=Path("output/tables"), help="folder of the runs (default output/tables)")
    add("--launch", nargs="?", const="print", choices=("print", "run"), help="print or run what fills missing rows")
    add("--num-gpus", type=int, default=1, help="of every run (default 1)")
    add("--seeds", type=int, nargs="+", default=[], help="one run of each row for every seed")
    add("--update", type=Path, metavar="FILE", help="also write the tables into this document")
    add("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides for every launched run")
    args = parser.parse_intermixed_args(arguments)

    tables = {table.name: table for table in load_tables(args.protocol)}
    if unknown := [name for name in args.tables or () if name not in tables]:
        raise UserError(f"there is no table '{unknown[0]}'; valid are {', '.join(tables)}")
    tables = [table for name, table in tables.items() if name in (args.tables or tables)]
    if args.num_gpus < 1:
        raise UserError(f"--num-gpus {args.num_gpus} must be at least 1")
    if len(args.opts) % 2:
        raise UserError(f"overrides come in pairs of KEY VALUE; {' '.join(args.opts)} is an odd number of words")
    if args.launch:
        launch(tables, args)
    if args.launch == "print":
        return
    runs = {row: find_runs(row, args.output) for table in tables for row in table.rows}
    markdown = to_markdown(tables, runs)
    if args.update:
        if not args.update.is_file():
            raise UserError(f"there is no document {args.update} to update")
        args.update.write_text(update_block(args.update.read_text(), markdown, str(args.update), args.protocol))
    make_output_folder(args.output)
    (args.output / "tables.md").write_text(markdown)
    (args.output / "tables.csv").write_text(to_csv(tables, runs))
    ours = [bool(found) for row, found in runs.items() if row.config]
    print(f"{sum(ours)} of {len(ours)} rows have a run: see {args.output}/tables.md and .csv")


def launch(tables, args):
    """Print the commands of the missing rows, or run them one after another until one fails."""
    commands = missing_commands(tables, args.output, args.num_gpus, args.seeds, args.opts)
    if args.launch == "run" and Path.cwd() != REPOSITORY:
        raise UserError(f"the commands are run in the repository: cd {REPOSITORY} first")
    for number, (file, command) in enumerate(commands.items(), start=1):
        shown = "python " + shlex.join(command[1:])
        if args.launch == "print":
            print(shown)
            continue
        print(f"[{number}/{len(commands)}] {shown}", flush=True)
        done = subprocess.run(command)
        if done.returncode or not file.is_file():
            raise UserError(f"this command ended with code {done.returncode} before it was done: {shown}")


if __name__ == "__main__":
    run_tool(main)
