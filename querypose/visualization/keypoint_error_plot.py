"""A bar chart of the errors by keypoint."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from querypose.visualization.figures import GREEN, ORANGE, PURPLE, RED, save_figure

if TYPE_CHECKING:
    from querypose.evaluation import KeypointErrors

_COLORS = {"good": GREEN, "jitter": ORANGE, "inversion": PURPLE, "miss": RED}
_NAMED_BARS = 60  # labels of more bars would overlap


def plot_keypoint_errors(errors: "KeypointErrors", path: str | Path, title: str = "") -> None:
    """Draw the kinds of errors of each keypoint as a stacked bar and its AP-like number as a dot, into a PNG file.

    Raises `UserError` if the file cannot be written.
    """
    number = len(errors.names)
    figure = Figure(figsize=(min(24, 3.5 + 0.42 * number), 4.8), dpi=120, layout="constrained")
    axis = figure.subplots()
    bottom = np.zeros(number)
    for (kind, color), shares in zip(_COLORS.items(), errors.kinds.T, strict=True):
        heights = 100 * np.nan_to_num(shares)
        axis.bar(range(number), heights, bottom=bottom, color=color, label=kind)
        bottom += heights
    axis.plot(range(number), 100 * errors.precision, "o", color="black", markersize=4, label="AP-like")
    names = [f"{name} ({count})" for name, count in zip(errors.names, errors.num_labeled, strict=True)]
    step = -(-number // _NAMED_BARS)
    axis.set_xticks(range(0, number, step), names[::step], rotation=60, ha="right", fontsize=8)
    axis.set(xlim=(-0.6, number - 0.4), ylim=(0, 100), ylabel="% of the labeled keypoints")
    found = f"{errors.num_found} of {errors.num_persons} persons found (OKS 0.5)"
    axis.set_title(f"{title}: {found}" if title else found, fontsize=10)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    save_figure(figure, path)
