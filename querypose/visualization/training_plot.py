"""Curves of one or several training runs: losses, learning rate, average precision."""

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from querypose.errors import UserError
from querypose.visualization.plots import PALETTE, save_figure

_STYLES: list[dict[str, Any]] = list(cycler(linestyle=["-", "--", ":"]) * cycler(color=PALETTE))


def plot_training(
    metrics_files: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    smoothing: int | None = None,
) -> Path:
    """Draw what Detectron2 wrote to `metrics.json` of each run: a panel per quantity, a color per run.

    Losses of the same name on several stages (`loss_l1`, `loss_l1_0`, ...) are summed. labels: the runs' names, else
    their folders'. smoothing: number of records in the running mean over the raw curve, else a fiftieth of a run.
    """
    files = [metrics_files] if isinstance(metrics_files, str | Path) else list(metrics_files)
    labels = labels or [Path(file).resolve().parent.name for file in files]
    if len(labels) != len(files):
        raise UserError(f"{len(files)} metrics files need as many labels, not {len(labels)}.")
    runs = [training_curves(read_metrics(file)) for file in files]
    names = sorted({name for run in runs for name in run}, key=_panel_order)
    if not names:
        raise UserError(f"nothing to plot: no losses, learning rate or AP in {', '.join(map(str, files))}.")

    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.1 * rows + 0.3), dpi=120, layout="constrained")
    for place, name in enumerate(names, start=1):
        axis = figure.add_subplot(rows, columns, place)
        curves = zip(itertools.cycle(_STYLES), runs, strict=False)
        _draw_panel(axis, name, [(style, *run[name]) for style, run in curves if name in run], smoothing)
    if len(runs) > 1:
        styles = zip(itertools.cycle(_STYLES), labels, strict=False)
        handles = [Line2D([], [], **style, label=label) for style, label in styles]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)
    return save_figure(figure, output)


def read_metrics(file: str | Path) -> dict[int, dict[str, float]]:
    """JSON lines as {iteration: {name: number}}, sorted; later ones replace earlier ones; broken ones are skipped."""
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; give a metrics.json of a training run.") from error
    records: dict[int, dict[str, float]] = {}
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("iteration"), int):
            numbers = {k: float(v) for k, v in record.items() if isinstance(v, int | float) and k != "iteration"}
            records.setdefault(record["iteration"], {}).update(numbers)
    if not records:
        raise UserError(f"{file} holds no training record; give a metrics.json that Detectron2 wrote.")
    return dict(sorted(records.items()))


def training_curves(records: dict[int, dict[str, float]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Iterations and values, those that are finite, of the total loss, every loss summed over its stages, `lr`, AP."""
    points: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for iteration, record in records.items():
        for name, value in record.items():
            if name.startswith("loss_") or name in ("total_loss", "lr") or name.endswith("/AP"):
                points[re.sub(r"_\d+$", "", name)][iteration] += value
    arrays = {name: np.array(list(sums.items()), dtype=float) for name, sums in points.items()}
    finite = {name: array[np.isfinite(array[:, 1])] for name, array in arrays.items()}
    return {name: (array[:, 0], array[:, 1]) for name, array in finite.items() if len(array)}


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the `window` values (made odd) around each; of fewer at the ends."""
    kernel = np.ones(2 * min(window // 2, (len(values) - 1) // 2) + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _panel_order(name: str) -> tuple[int, str]:
    """The total loss, its terms, then results with keypoints before boxes, then the learning rate."""
    return {"total_loss": 0, "keypoints/AP": 2, "lr": 4}.get(name, 3 if name.endswith("/AP") else 1), name


def _draw_panel(
    axis: Axes, name: str, curves: list[tuple[dict[str, Any], np.ndarray, np.ndarray]], smoothing: int | None
) -> None:
    """Draw the curves (style, iterations, values) of a quantity."""
    is_loss, is_result = "loss" in name, name.endswith("/AP")
    for style, iterations, values in curves:
        if is_loss:
            axis.plot(iterations, values, color=style["color"], linewidth=0.7, alpha=0.3)
            values = running_mean(values, smoothing or len(values) // 50)
        axis.plot(iterations, values, **style, linewidth=1.5, marker="o" if is_result else None, markersize=3)
        if is_result:
            best = int(np.argmax(values))
            place: Any = {"textcoords": "offset points", "xytext": (0, 4), "ha": "center", "fontsize": 8}
            axis.annotate(f"{values[best]:.1f}", (iterations[best], values[best]), color=style["color"], **place)
            axis.margins(y=0.15)
    every = np.concatenate([values for _, _, values in curves])
    # a likelihood loss falls below 0, and few decades need no log axis
    if is_loss and every.min() > 0 and every.max() > 10 * every.min():
        axis.set_yscale("log")
    axis.set_title({"lr": "learning rate", "total_loss": "total loss"}.get(name, name), fontsize=10)
    axis.set_xlabel("iteration", fontsize=8)
    axis.tick_params(labelsize=8, which="both")
    axis.grid(alpha=0.25)
