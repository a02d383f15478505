"""What was measured, as a Markdown table and as a line on the terminal."""

from collections.abc import Callable
from typing import Any

from tabulate import tabulate

_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "median ms": lambda run: f"{run['median_ms']:.0f}",
    "p90 ms": lambda run: f"{run['p90_ms']:.0f}",
    "images/s": lambda run: f"{run['images_per_s']:.2f}",
    "boxes": lambda run: " or ".join(map(str, run["box_rows"])),
    "persons": lambda run: " or ".join(map(str, run["keypoint_rows"])),
    "allocated MiB": lambda run: f"{run['peak_memory_mb']:.0f}",
    "process MiB": lambda run: f"{run['process_peak_mb']:.0f}",
    "parameters (M)": lambda run: f"{run['parameters'] / 1e6:.1f}",
    "GFLOPs": lambda run: f"{run['gflops']:.0f}",
    "of the machine's peak": lambda run: f"{100 * run['of_machine_peak']:.0f}%",
    "parts, in ms": lambda run: ", ".join(f"{part} {value:.0f}" for part, value in run["parts_ms"].items()),
}


def to_line(run: dict[str, Any]) -> str:
    """The numbers of one run."""
    if "rows" in run:
        return "; ".join(f"{row['what']} {row['images_per_s']:.0f} images/s" for row in run["rows"])
    return "; ".join(f"{column} {text(run)}" for column, text in _COLUMNS.items())


def to_markdown(results: dict[str, Any]) -> str:
    """A line for each model, and one for each way to read images; `results` as the tool's JSON."""
    lines = [", ".join(f"{name} {value}" for name, value in results["machine"].items())]
    runs = results["runs"].items()
    models = [[name, *(text(run) for text in _COLUMNS.values())] for name, run in runs if "rows" not in run]
    reading = [[row["what"], f"{row['images_per_s']:.0f}"] for _, run in runs for row in run.get("rows", ())]
    for rows, header in ((models, ["run", *_COLUMNS]), (reading, ["reading, one process", "images/s"])):
        if rows:
            lines += ["", tabulate(rows, header, tablefmt="github", disable_numparse=True)]
    return "\n".join(lines) + "\n"
