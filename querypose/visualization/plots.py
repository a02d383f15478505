"""Plots of data sets and of errors by keypoint, and what all plots share: the palette and how they are written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from querypose.errors import UserError

if TYPE_CHECKING:
    from querypose.data.dataset_check import DatasetReport
    from querypose.evaluation import KeypointErrors
    from querypose.evaluation.reliability import Reliability

BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK = PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
"""Okabe and Ito's palette without yellow, which is faint on paper."""


def save_figure(figure: Figure, path: str | Path, **options: Any) -> Path:
    """Write a figure with options of `Figure.savefig`, and return the path; missing folders are created.

    Raises `UserError` for a suffix that matplotlib does not know and for a path that cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, **options)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written: {reason}; give a writable path that ends in .png") from error
    return path


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


def plot_keypoint_errors(errors: "KeypointErrors", path: str | Path, title: str = "") -> None:
    """Draw the kinds of errors of each keypoint as a stacked bar and its AP-like number as a dot."""
    number = len(errors.names)
    figure = Figure(figsize=(min(24, 3.5 + 0.42 * number), 4.8), dpi=120, layout="constrained")
    axis = figure.subplots()
    bottom = np.zeros(number)
    kinds = {"good": GREEN, "jitter": ORANGE, "inversion": PURPLE, "miss": RED}
    for (kind, color), shares in zip(kinds.items(), errors.kinds.T, strict=True):
        heights = 100 * np.nan_to_num(shares)
        axis.bar(range(number), heights, bottom=bottom, color=color, label=kind)
        bottom += heights
    axis.plot(range(number), 100 * errors.precision, "o", color="black", markersize=4, label="AP-like")
    names = [f"{name} ({count})" for name, count in zip(errors.names, errors.num_labeled, strict=True)]
    _name_bars(axis.xaxis, names, most=60, rotation=60, ha="right", fontsize=8)
    axis.set(xlim=(-0.6, number - 0.4), ylim=(0, 100), ylabel="% of the labeled keypoints")
    found = f"{errors.num_found} of {errors.num_persons} persons found (OKS 0.5)"
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
