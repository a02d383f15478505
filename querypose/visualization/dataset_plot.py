"""Histograms of a data set: sizes, persons, labelled keypoints."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from querypose.errors import UserError

_COLOUR = "#0072B2"
_COLUMNS = 3
_NAMED_BARS = 40  # more names than that would lie over each other


def plot_dataset(reports, path):
    """Draw the histograms of `querypose.data.dataset_check.DatasetReport`s, below each other.

    Args:
        reports: list of reports.
        path: PNG file to write.

    Raises:
        UserError: if the file cannot be written.
    """
    figure = Figure(figsize=(13, 6.8 * len(reports)), dpi=90, layout="constrained")
    parts = figure.subfigures(len(reports), 1, squeeze=False)[:, 0]
    for part, report in zip(parts, reports, strict=True):
        part.suptitle(report.name)
        axes = part.subplots(2, _COLUMNS).ravel()
        for axis, (title, values) in zip(axes, report.histograms.items(), strict=False):
            values = np.array(values)
            whole = title.startswith(("annotations", "labelled"))
            bins = np.arange(values.max() + 2) - 0.5 if whole and len(values) and values.max() < 150 else 40
            axis.hist(values, bins=bins, color=_COLOUR)
            axis.set_title(title, fontsize=10)
        _draw_labelled(axes[-1], report.labelled)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the picture cannot be written to {path}: {reason}; give a path ending in .png") from error


def _draw_labelled(axis, labelled):
    axis.set_title("labelled keypoints by name", fontsize=10)
    place, step = np.arange(len(labelled)), max(1, -(-len(labelled) // _NAMED_BARS))
    axis.barh(place, list(labelled.values()), color=_COLOUR)
    axis.set_yticks(place[::step], list(labelled)[::step], fontsize=7)
    axis.invert_yaxis()
