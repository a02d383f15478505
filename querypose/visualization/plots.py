"""Plots of training runs, data sets and errors."""

import contextlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from querypose.errors import UserError

if TYPE_CHECKING:
    from querypose.data.dataset_check import DatasetReport
    from querypose.evaluation.reliability import Reliability

BLUE, RED, GREEN, PURPLE, ORANGE, *_ = PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
"""Okabe and Ito's palette without yellow, which is faint on paper."""

_STYLES: list[dict[str, Any]] = list(cycler(linestyle=["-", "--", ":"]) * cycler(color=PALETTE))


def save_figure(figure: Figure, path: str | Path, **options: Any) -> Path:
    """Write a figure with options of `Figure.savefig`, and return the path; missing folders are created."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, **options)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written: {reason}; give a writable path that ends in .png") from error
    return path


def plot_training(
    metrics_files: Sequence[str | Path],
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    smoothing: int | None = None,
) -> Path:
    """Draw what Detectron2 wrote to `metrics.json` of each run: a panel per quantity, a color per run.

    labels: the runs' names, else their folders'. smoothing: number of records in the running mean over the raw curve,
    else a fiftieth of a run.
    """
    folders = [Path(file).resolve().parent.name for file in metrics_files]
    labels = labels or (folders if len(set(folders)) == len(folders) else [str(file) for file in metrics_files])
    if len(labels) != len(metrics_files):
        raise UserError(f"{len(metrics_files)} metrics files need as many labels, not {len(labels)}.")
    runs = list(zip(itertools.cycle(_STYLES), labels, map(read_curves, metrics_files), strict=False))
    # the total loss, its terms, results with keypoints before boxes, the learning rate
    order = {"total_loss": 0, "keypoints/AP": 2, "lr": 4}
    quantities = {name for *_, curves in runs for name in curves}
    names = sorted(quantities, key=lambda name: (order.get(name, 3 if name.endswith("/AP") else 1), name))
    if not names:
        raise UserError(f"nothing to plot: no losses, learning rate or AP in {', '.join(map(str, metrics_files))}.")
    rows, columns = -(-len(names) // 3), min(3, len(names))
    figure = Figure(figsize=(4.6 * columns, 3.1 * rows + 0.3), dpi=120, layout="constrained")
    for place, name in enumerate(names, start=1):
        axis = figure.add_subplot(rows, columns, place)
        curves = [(style, *curves[name]) for style, _, curves in runs if name in curves]
        _draw_panel(axis, name, curves, smoothing)
    if len(runs) > 1:
        handles = [Line2D([], [], **style, label=label) for style, label, _ in runs]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)
    return save_figure(figure, output)


def read_curves(file: str | Path) -> dict[str, np.ndarray]:
    """Iterations and finite values (2, n) of the total loss, `lr`, AP and each loss summed over its stages (`loss_l1`,
    `loss_l1_0`, ..) in a `metrics.json`; later lines replace earlier ones, broken ones are skipped."""
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; give a metrics.json of a training run.") from error
    records: dict[int, dict[str, Any]] = {}
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
            record = json.loads(line)
            if isinstance(iteration := record["iteration"], int):
                records.setdefault(iteration, {}).update(record)
    if not records:
        raise UserError(f"{file} holds no training record; give a metrics.json that Detectron2 wrote.")
    points: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for iteration, record in sorted(records.items()):
        for name, value in record.items():
            is_shown = name.startswith("loss_") or name in ("total_loss", "lr") or name.endswith("/AP")
            if is_shown and isinstance(value, int | float):
                points[re.sub(r"_\d+$", "", name)][iteration] += value
    curves = {name: np.array([*sums.items()], dtype=float).T for name, sums in points.items()}
    curves = {name: curve[:, np.isfinite(curve[1])] for name, curve in curves.items()}
    return {name: curve for name, curve in curves.items() if curve.size}


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the `window` values (made odd) around each; of fewer at the ends."""
    kernel = np.ones(2 * min(window // 2, (len(values) - 1) // 2) + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


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


def plot_dataset(reports: "Sequence[DatasetReport]", path: str | Path) -> None:
    """Draw the histograms of data set reports, one below the other."""
    figure = Figure(figsize=(13, 6.8 * len(reports)), dpi=90, layout="constrained")
    parts = figure.subfigures(len(reports), 1, squeeze=False)[:, 0]
    for part, report in zip(parts, reports, strict=True):
        part.suptitle(report.name)
        axes: Sequence[Axes] = part.subplots(2, 3).ravel()
        for axis, (title, numbers) in zip(axes, report.histograms.items(), strict=False):
            values = np.array(numbers)
            is_count = title.startswith(("annotations", "labeled"))
            one_by_one = is_count and len(values) and values.max() < 150
            axis.hist(values, bins=(np.arange(values.max() + 2) - 0.5).tolist() if one_by_one else 40, color=BLUE)
            axis.set_title(title, fontsize=10)
        axes[-1].barh(range(len(report.labeled)), list(report.labeled.values()), color=BLUE)
        _name_bars(axes[-1].yaxis, list(report.labeled), most=40, fontsize=7)
        axes[-1].invert_yaxis()
        axes[-1].set_title("labeled keypoints by name", fontsize=10)
    save_figure(figure, path)


def plot_keypoint_errors(errors: dict[str, Any], path: str | Path, title: str = "") -> None:
    """Draw `keypoint_errors`: the kinds of errors of each keypoint as a stacked bar, its AP-like number as a dot."""
    keypoints = errors["keypoints"]
    number = len(keypoints)
    figure = Figure(figsize=(min(24, 3.5 + 0.42 * number), 4.8), dpi=120, layout="constrained")
    axis = figure.subplots()
    bottom = np.zeros(number)
    kinds = {"good": GREEN, "jitter": ORANGE, "inversion": PURPLE, "miss": RED}
    columns = {key: np.array([values[key] for values in keypoints.values()], float) for key in (*kinds, "AP-like")}
    for kind, color in kinds.items():
        heights = np.nan_to_num(columns[kind])
        axis.bar(range(number), heights, bottom=bottom, color=color, label=kind)
        bottom += heights
    axis.plot(range(number), columns["AP-like"], "o", color="black", markersize=4, label="AP-like")
    names = [f"{name} ({values['labelled']})" for name, values in keypoints.items()]
    _name_bars(axis.xaxis, names, most=60, rotation=60, ha="right", fontsize=8)
    axis.set(xlim=(-0.6, number - 0.4), ylim=(0, 100), ylabel="% of the labeled keypoints")
    found = f"{errors['found']} of {errors['persons']} persons found (OKS 0.5)"
    axis.set_title(f"{title}: {found}" if title else found, fontsize=10)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    save_figure(figure, path)


def plot_reliability(bins: "Mapping[str, Reliability]", path: str | Path) -> None:
    """Draw real against predicted errors of one or several `Reliability`, by what they are named."""
    figure = Figure(figsize=(4.6, 4.2), dpi=100, layout="constrained")
    axis = figure.subplots()
    numbers = np.concatenate([values for one in bins.values() for values in (one.predicted, one.real)])
    limits = float(numbers.min() / 1.3), float(numbers.max() * 1.3)
    axis.plot(limits, limits, "--", color="gray", linewidth=1, label="equal")
    for (name, one), color in zip(bins.items(), (ORANGE, BLUE, GREEN, PURPLE), strict=False):
        axis.plot(one.predicted, one.real, "o-", color=color, markersize=4, label=f"{name}: ENCE {one.ence:.2f}")
    axis.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal")
    axis.set(xlabel="predicted, pixels", ylabel="real error, pixels")
    axis.set_title("root mean squares in bins of predicted sigma", fontsize=10)
    axis.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def _name_bars(axis: Axis, names: list[str], most: int, **style: Any) -> None:
    """Write the bars' names, not all of them if there are more than `most`, which would overlap."""
    step = max(1, -(-len(names) // most))
    axis.set_ticks(range(0, len(names), step), names[::step], **style)
