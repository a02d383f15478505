"""Histograms of a data set: sizes, persons, labeled keypoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from querypose.visualization.figures import BLUE, save_figure

if TYPE_CHECKING:
    from querypose.data.dataset_check import DatasetReport

_NAMED_BARS = 40  # labels of more bars would overlap


def plot_dataset(reports: "Sequence[DatasetReport]", path: str | Path) -> None:
    """Draw the histograms of data set reports, one below the other, into a PNG file.

    Raises `UserError` if the file cannot be written.
    """
    figure = Figure(figsize=(13, 6.8 * len(reports)), dpi=90, layout="constrained")
    parts = figure.subfigures(len(reports), 1, squeeze=False)[:, 0]
    for part, report in zip(parts, reports, strict=True):
        part.suptitle(report.name)
        axes = part.subplots(2, 3).ravel()
        for axis, (title, numbers) in zip(axes, report.histograms.items(), strict=False):
            values = np.array(numbers)
            is_count = title.startswith(("annotations", "labeled"))
            bins = np.arange(values.max() + 2) - 0.5 if is_count and len(values) and values.max() < 150 else 40
            axis.hist(values, bins=bins, color=BLUE)
            axis.set_title(title, fontsize=10)
        names, counts = list(report.labeled), list(report.labeled.values())
        step = max(1, -(-len(names) // _NAMED_BARS))
        axes[-1].barh(range(len(names)), counts, color=BLUE)
        axes[-1].set_yticks(range(0, len(names), step), names[::step], fontsize=7)
        axes[-1].invert_yaxis()
        axes[-1].set_title("labeled keypoints by name", fontsize=10)
    save_figure(figure, path)
