"""Tables as Markdown and CSV: the paper's results beside ours, and the cost of our runs."""

import csv
import io

from querypose.errors import UserError
from querypose.reproduction.runs import Row, Run, Table


def to_markdown(tables: list[Table], runs: dict[Row, list[Run]]) -> str:
    """A heading and a table for each, then a line for each run: its config, iterations, time, memory, seed, folder."""
    parts = []
    for table in tables:
        # columns of the paper in which it says nothing are left out
        told = [index for index in range(len(table.columns)) if any(row.paper[index] is not None for row in table.rows)]
        header = [*table.labels, *(f"{table.columns[index]} (paper)" for index in told)]
        header += [f"{column} (ours)" for column in table.our_columns]
        lines = [f"### {table.title}", "", _line(header), _line(["---"] * len(header))]
        for row in table.rows:
            paper = [_number(row.paper[index]) for index in told]
            lines.append(_line([*row.labels, *paper, *_ours(table, row, runs[row])]))
        took = [_took(row, run) for row in table.rows for run in runs[row]]
        parts.append("\n".join([*lines, *([""] if took else []), *took]))
    return "\n\n".join(parts) + "\n"


def to_csv(tables: list[Table], runs: dict[Row, list[Run]]) -> str:
    """One line per row, metric and run: table, row, config, metric, paper, ours, seed, iterations, folder."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "row", "config", "figure", "paper", "ours", "seed", "iterations", "run"])
    for table in tables:
        for row in table.rows:
            paper = dict(zip(table.columns, row.paper, strict=True))
            for column in table.our_columns:
                start = [table.name, " ".join(row.labels), row.config, column, paper.get(column)]
                for run in runs[row]:
                    seed, iterations = map(run.results.get, ("seed", "iterations"))
                    writer.writerow([*start, run.figure(column), seed, iterations, run.folder])
                if not runs[row]:
                    writer.writerow([*start, *4 * [None]])
    return file.getvalue()


def update_block(text: str, block: str, path: str, protocol: str) -> str:
    """The text of a document with `block` between the protocol's two marks; UserError if it lacks them."""
    first, last = (f"<!-- {protocol} results: {place} -->" for place in ("begin", "end"))
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise UserError(f"{path} has no lines {first} and {last}, between which the results are written; add them")
    return f"{before}{first}\n{block.strip()}\n{last}{after}"


def _ours(table: Table, row: Row, runs: list[Run]) -> list[str]:
    """A cell for each column; several runs share a cell."""
    if any(run.results["metrics"] for run in runs):
        return [" / ".join(_number(run.figure(column)) for run in runs) for column in table.our_columns]
    first = "results written, for the server to score" if runs else "not yet run" if row.config else ""
    return [first, *("" for _ in table.our_columns[1:])]


def _took(row: Row, run: Run) -> str:
    results = run.results
    facts = [f"`{row.config}`"]
    if results.get("iterations"):
        minutes = results["training_seconds"] / 60
        facts.append(f"{results['iterations']} iterations of {results['images_per_batch']} images in {minutes:.1f} min")
    if results.get("ms_per_image"):
        facts.append(f"{results['ms_per_image']:.1f} ms an image")
    if results.get("peak_memory_mb"):
        facts.append(f"{results['peak_memory_mb'] / 1024:.1f} GiB")
    facts += [f"seed {results['seed']}", f"{results['processes']} x {results['hardware']}", f"`{run.folder}`"]
    if run.differences:
        facts.append("**not the row's:** " + ", ".join(run.differences))
    return "- " + ", ".join(facts)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
