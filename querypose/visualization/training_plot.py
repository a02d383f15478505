"""Curves of one or several training runs: losses, learning rate, average precision."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from querypose.errors import UserError
from querypose.visualization.figures import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, save_figure

_COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
_LINE_STYLES = ("-", "--", ":")
_STAGE_SUFFIX = re.compile(r"_\d+$")

Curve = tuple[np.ndarray, np.ndarray]
"""Iterations and values."""


def plot_training(
    metrics_files: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    smoothing: int | None = None,
) -> Path:
    """Draw what Detectron2 wrote to `metrics.json`: one panel per quantity, one color per run.

    metrics_files: a path or several; each is one run, in JSON lines. Losses of the same name on several
    stages (`loss_l1`, `loss_l1_0`, `loss_l1_1`, ...) are summed. labels: the runs' names, else their
    folders'. smoothing: number of records in the running mean drawn over the raw curve; None takes a fiftieth
    of a run.

    Returns the path of the figure. Raises `UserError` for a file that is missing or holds no record, and for a figure
    that cannot be written.
    """
    files = [metrics_files] if isinstance(metrics_files, str | Path) else list(metrics_files)
    if labels is None:
        folders = [Path(file).resolve().parent.name for file in files]
        labels = folders if len(set(folders)) == len(folders) else [str(file) for file in files]
    if len(labels) != len(files):
        raise UserError(f"{len(files)} metrics files need as many labels, not {len(labels)}.")
    runs = [training_curves(read_metrics(file)) for file in files]
    names = sorted({name for run in runs for name in run}, key=_panel_order)
    if not names:
        raise UserError(f"nothing to plot: no losses, learning rate or AP in {', '.join(map(str, files))}.")

    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.1 * lines + 0.3), dpi=120, layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for axis in axes[len(names) :]:
        axis.remove()
    for axis, name in zip(axes, names, strict=False):
        _draw_panel(axis, name, [run.get(name) for run in runs], smoothing)
    if len(runs) > 1:
        handles = [axes[0].plot([], [], **_style(i), label=label)[0] for i, label in enumerate(labels)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)
    return save_figure(figure, output)


def read_metrics(file: str | Path) -> dict[int, dict[str, float]]:
    """Read JSON lines into {iteration: {name: number}}, in ascending order of iterations.

    A later line of the same iteration adds to and replaces the earlier ones, as when a run is resumed. An incomplete
    line is left out: a run in progress, or a killed one, leaves one.
    """
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


def training_curves(records: dict[int, dict[str, float]]) -> dict[str, Curve]:
    """Convert {iteration: {name: number}} to curves by panel name.

    Curves: `total_loss`, every `loss_*` summed over its stages, `lr`, every name ending in `/AP`. Numbers
    that are not finite are left out.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    for iteration, record in records.items():
        sums: dict[str, float] = {}
        for name, value in record.items():
            if name.startswith("loss_"):
                name = _STAGE_SUFFIX.sub("", name)
                sums[name] = sums.get(name, 0.0) + value
            elif name in ("total_loss", "lr") or name.endswith("/AP"):
                sums[name] = value
        for name, value in sums.items():
            if math.isfinite(value):
                points.setdefault(name, []).append((iteration, value))
    arrays = {name: np.array(values, dtype=float) for name, values in points.items()}
    return {name: (array[:, 0], array[:, 1]) for name, array in arrays.items()}


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the `window` values (made odd) around each; of fewer at the ends."""
    half = min(max(int(window), 1) // 2, len(values) - 1)
    kernel, inside = np.ones(2 * half + 1), slice(half, half + len(values))
    return np.convolve(values, kernel)[inside] / np.convolve(np.ones(len(values)), kernel)[inside]


def _panel_order(name: str) -> tuple[int, str]:
    """The total loss, its terms, then results with keypoints before boxes, then the learning rate."""
    if name.endswith("/AP"):
        return 2 if name == "keypoints/AP" else 3, name
    return {"total_loss": 0, "lr": 4}.get(name, 1), name


def _draw_panel(axis: Axes, name: str, curves: Sequence[Curve | None], smoothing: int | None) -> None:
    is_loss, is_result = "loss" in name, name.endswith("/AP")
    drawn = [(i, *curve) for i, curve in enumerate(curves) if curve is not None]
    for i, iterations, values in drawn:
        style = _style(i)
        if is_loss:
            window = max(1, len(values) // 50) if smoothing is None else smoothing
            axis.plot(iterations, values, color=style["color"], linewidth=0.7, alpha=0.3)
            values = running_mean(values, window)
        axis.plot(iterations, values, **style, linewidth=1.5, marker="o" if is_result else None, markersize=3)
        if is_result:
            best = int(np.argmax(values))
            place: Any = {"textcoords": "offset points", "xytext": (0, 4), "ha": "center", "fontsize": 8}
            axis.annotate(f"{values[best]:.1f}", (iterations[best], values[best]), color=style["color"], **place)
    every = np.concatenate([values for _, _, values in drawn])
    # The likelihood loss of keypoints falls below 0; only quantities that stay above it and span decades get
    # a log axis.
    if is_loss and every.min() > 0 and every.max() > 10 * every.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    if is_result:
        axis.margins(y=0.15)
    axis.set_title({"lr": "learning rate", "total_loss": "total loss"}.get(name, name), fontsize=10)
    axis.set_xlabel("iteration", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def _style(run: int) -> dict[str, Any]:
    """Color and line style of a run: styles distinguish those that share a color."""
    number = len(_COLORS)
    return {"color": _COLORS[run % number], "linestyle": _LINE_STYLES[run // number % len(_LINE_STYLES)]}
