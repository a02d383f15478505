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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.ndimage import uniform_filter1d

from querypose.errors import UserError

if TYPE_CHECKING:
    from querypose.data.dataset_check import DatasetReport
    from querypose.evaluation.reliability import Reliability

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, RED, GREEN, PURPLE, ORANGE, *_ = PALETTE
"""Okabe and Ito's palette without yellow, which is faint on paper."""


def save_figure(figure: Figure, path: str | Path, **options: Any) -> None:
    """Write a figure with options of `Figure.savefig`; missing folders are created."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, **options)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written: {reason}; give a writable path that ends in .png") from error


def plot_training(metrics_files: Sequence[str | Path], output: str | Path, labels: Sequence[str]) -> None:
    """Draw what Detectron2 wrote to `metrics.json` of each run, named by `labels`: a panel per quantity, a color per
    run, and over each curve of a loss the running mean of a fiftieth of its records."""
    if len(labels) != len(metrics_files):
        raise UserError(f"{len(metrics_files)} metrics files need as many labels, not {len(labels)}.")
    runs = list(zip(itertools.cycle(PALETTE), labels, map(read_curves, metrics_files), strict=False))
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
        _draw_panel(axis, name, [(color, *curves[name]) for color, _, curves in runs if name in curves])
    if len(runs) > 1:
        handles = [Line2D([], [], color=color, label=label) for color, label, _ in runs]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)
    save_figure(figure, output)


def read_curves(file: str | Path) -> dict[str, np.ndarray]:
    """Iterations and finite values (2, n) of the total loss, `lr`, AP and each loss summed over its stages (`loss_l1`,
    `loss_l1_0`, ..) in a `metrics.json`; later lines replace earlier ones, broken ones are skipped."""
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; give a metrics.json of a training run.") from error
    records: dict[int, dict[str, Any]] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            records.setdefault(int(record["iteration"]), {}).update(record)
    points: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for iteration, record in sorted(records.items()):
        for name, value in record.items():
            is_shown = name.startswith("loss_") or name in ("total_loss", "lr") or name.endswith("/AP")
            if is_shown and isinstance(value, int | float) and np.isfinite(value):
                points[re.sub(r"_\d+$", "", name)][iteration] += value
    return {name: np.array([*sums.items()], dtype=float).T for name, sums in points.items()}


def _draw_panel(axis: Axes, name: str, curves: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Draw the curves (color, iterations, values) of a quantity."""
    is_loss, is_result = "loss" in name, name.endswith("/AP")
    for color, iterations, values in curves:
        if is_loss:
            axis.plot(iterations, values, color=color, linewidth=0.7, alpha=0.3)
            values = uniform_filter1d(values, max(1, len(values) // 50), mode="nearest")  # a running mean
        axis.plot(iterations, values, color=color, linewidth=1.5, marker="o" if is_result else None, markersize=3)
        if is_result:
            best = int(np.argmax(values))
            axis.text(iterations[best], values[best], f"{values[best]:.1f}", color=color, ha="center", va="bottom")
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
            most = max(numbers, default=0)
            one_by_one = title.startswith(("annotations", "labeled")) and most < 150
            axis.hist(numbers, bins=[i - 0.5 for i in range(int(most) + 2)] if one_by_one else 40, color=BLUE)
            axis.set_title(title, fontsize=10)
        axes[-1].barh(list(report.labeled), list(report.labeled.values()), color=BLUE)
        axes[-1].tick_params(axis="y", labelsize=min(7, 280 / max(1, len(report.labeled))))
        axes[-1].invert_yaxis()
        axes[-1].set_title("labeled keypoints by name", fontsize=10)
    save_figure(figure, path)


def plot_keypoint_errors(errors: dict[str, Any], path: str | Path, title: str) -> None:
    """Draw `keypoint_errors`: the kinds of errors of each keypoint as a stacked bar, its AP-like number as a dot."""
    keypoints = errors["keypoints"]
    number = len(keypoints)
    figure = Figure(figsize=(3.5 + 0.42 * number, 4.8), dpi=120, layout="constrained")
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
    axis.set_xticks(range(number), names, rotation=60, ha="right", fontsize=8)
    axis.set(xlim=(-0.6, number - 0.4), ylim=(0, 100), ylabel="% of the labeled keypoints")
    axis.set_title(f"{title}: {errors['found']} of {errors['persons']} persons found (OKS 0.5)", fontsize=10)
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
    axis.set(xlabel="predicted, pixels", ylabel="real error, pixels", title="root mean squares in bins of sigma")
    axis.legend(frameon=False, fontsize=9)
    save_figure(figure, path)
