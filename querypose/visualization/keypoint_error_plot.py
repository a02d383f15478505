"""A picture of the errors by keypoint."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from querypose.errors import UserError

# Okabe and Ito's palette: green, orange, purple, red
_COLOURS = {"good": "#009E73", "jitter": "#E69F00", "inversion": "#CC79A7", "miss": "#D55E00"}
_NAMED_BARS = 60  # more names than that would lie over each other


def plot_keypoint_errors(errors, path, title=""):
    """Draw what became of each keypoint as a stacked bar, its AP-like number as a dot.

    Args:
        errors: `querypose.evaluation.KeypointErrors`.
        path: PNG file to write.
        title: a line above the picture.

    Raises:
        UserError: if the file cannot be written.
    """
    number = len(errors.names)
    figure = Figure(figsize=(min(24, 3.5 + 0.42 * number), 4.8), dpi=120, layout="constrained")
    axis = figure.subplots()
    place, bottom = np.arange(number), np.zeros(number)
    for (kind, colour), shares in zip(_COLOURS.items(), errors.kinds.T, strict=True):
        heights = 100 * np.nan_to_num(shares)
        axis.bar(place, heights, bottom=bottom, color=colour, width=0.8, label=kind)
        bottom += heights
    axis.plot(place, 100 * errors.precision, "o", color="black", markersize=4, label="AP-like")
    names = [f"{name} ({count})" for name, count in zip(errors.names, errors.num_labelled, strict=True)]
    step = -(-number // _NAMED_BARS)
    axis.set_xticks(place[::step], names[::step], rotation=60, ha="right", fontsize=8)
    axis.set_xlim(-0.6, number - 0.4)
    axis.set_ylim(0, 100)
    axis.set_ylabel("% of the labelled keypoints")
    found = f"{errors.num_found} of {errors.num_persons} persons found (OKS 0.5)"
    axis.set_title(f"{title}: {found}" if title else found, fontsize=10)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the picture cannot be written to {path}: {reason}; give a path ending in .png") from error
