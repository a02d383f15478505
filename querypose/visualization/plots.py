"""Curves of one or several training runs: losses, learning rate, average precision."""

import json
import math
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from querypose.errors import UserError

# Okabe and Ito's palette without yellow, which is faint on paper.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINE_STYLES = ("-", "--", ":")
_STAGE_SUFFIX = re.compile(r"_\d+$")


def plot_training(metrics_files, output_png, *, labels=None, smoothing=None):
    """Draw what Detectron2 wrote to `metrics.json`: one panel per quantity, one colour per run.

    metrics_files: a path or several; each is one run, in JSON lines. Losses of the same name on several
    stages (`loss_l1`, `loss_l1_0`, `loss_l1_1`, ...) are summed. labels: the runs' names, else their
    folders'. smoothing: number of records in the running mean drawn over the raw curve; None takes a fiftieth
    of a run.

    Returns the path of the picture. Raises `UserError` for a file that is missing or holds no record, and for a picture
    that cannot be written.
    """
    files = [metrics_files] if isinstance(metrics_files, str | Path) else list(metrics_files)
    if not files:
        raise UserError("nothing to plot: give at least one metrics.json.")
    labels = _run_labels(files) if labels is None else list(labels)
    if len(labels) != len(files):
        raise UserError(f"{len(files)} metrics files need as many labels, not {len(labels)}.")
    runs = [training_curves(read_metrics(file)) for file in files]
    names = list(dict.fromkeys(name for panel in _panel_order(runs) for name in panel))
    if not names:
        raise UserError(f"nothing to plot: no losses, learning rate or AP in {', '.join(map(str, files))}.")

    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.1 * lines + 0.3), dpi=120, layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for axis in axes[len(names) :]:
        axis.remove()
    for axis, name in zip(axes, names, strict=False):
        _draw_panel(axis, name, [run.get(name) for run in runs], labels, smoothing)
    if len(runs) > 1:
        handles = [axes[0].plot([], [], **_style(i), label=label)[0] for i, label in enumerate(labels)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)

    output_png = Path(output_png)
    try:
        output_png.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output_png)
    except (OSError, ValueError) as error:  # a ValueError is an ending of which matplotlib has no format
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {output_png}: {reason}; choose another place or a name in .png.") from error
    return output_png


def read_metrics(file):
    """Read JSON lines into {iteration: {name: number}}, by rising iteration.

    A later line of the same iteration adds to and replaces the earlier ones, as when a run is resumed. A line
    that is not whole is left out: a run that is going on, or was killed, leaves one.
    """
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; give a metrics.json of a training run.") from error
    records = {}
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


def training_curves(records):
    """Turn {iteration: {name: number}} into curves {panel name: (iterations, values)}, two arrays each.

    Curves: `total_loss`, every `loss_*` summed over its stages, `lr`, every name ending in `/AP`. Numbers
    that are not finite are left out.
    """
    points = {}
    for iteration, record in records.items():
        sums = {}
        for name, value in record.items():
            if name.startswith("loss_"):
                name = _STAGE_SUFFIX.sub("", name)
                sums[name] = sums.get(name, 0.0) + value
            elif name in ("total_loss", "lr") or name.endswith("/AP"):
                sums[name] = value
        for name, value in sums.items():
            if math.isfinite(value):
                points.setdefault(name, []).append((iteration, value))
    return {name: tuple(np.array(values, dtype=float).T) for name, values in points.items()}


def running_mean(values, window):
    """Return the mean of the `window` values (made odd) around each; of fewer at the ends."""
    values = np.asarray(values, dtype=float)
    half = min(max(int(window), 1) // 2, len(values) - 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _panel_order(runs):
    """Yield lists of panel names: the total, its parts, then results, then the learning rate."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    yield [name for name in names if name == "total_loss"]
    yield sorted(name for name in names if name.startswith("loss_"))
    yield sorted((name for name in names if name.endswith("/AP")), reverse=True)
    yield [name for name in names if name == "lr"]


def _draw_panel(axis, name, curves, labels, smoothing):
    is_loss, is_result = "loss" in name, name.endswith("/AP")
    drawn = [(i, *curve) for i, curve in enumerate(curves) if curve is not None]
    for i, iterations, values in drawn:
        if is_loss:
            window = max(1, len(values) // 50) if smoothing is None else smoothing
            axis.plot(iterations, values, color=_style(i)["color"], linewidth=0.7, alpha=0.3)
            axis.plot(iterations, running_mean(values, window), **_style(i), linewidth=1.5, label=labels[i])
        else:
            marker = "o" if is_result else None
            axis.plot(iterations, values, **_style(i), linewidth=1.5, marker=marker, markersize=3, label=labels[i])
        if is_result:
            best = int(np.argmax(values))
            axis.annotate(
                f"{values[best]:.1f}",
                (iterations[best], values[best]),
                textcoords="offset points",
                xytext=(0, 4),
                ha="center",
                fontsize=8,
                color=_style(i)["color"],
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
            )
    every = np.concatenate([values for _, _, values in drawn])
    # The likelihood loss of keypoints falls below 0; only quantities that stay above it and span decades get
    # a log axis.
    if is_loss and every.min() > 0 and every.max() > 10 * every.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    if is_result:
        axis.margins(y=0.15)
    axis.set_title({"lr": "learning rate", "total_loss": "total loss"}.get(name, name), fontsize=10)
    axis.set_xlabel("iteration", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def _run_labels(files):
    """Name runs by the folders of their files, or by the files where folders coincide."""
    folders = [Path(file).resolve().parent.name for file in files]
    return folders if len(set(folders)) == len(folders) else [str(file) for file in files]


def _style(run):
    """Colour and dashes of a run: dashes tell apart those that share a colour."""
    colours = len(RUN_COLOURS)
    return {"color": RUN_COLOURS[run % colours], "linestyle": _LINE_STYLES[run // colours % len(_LINE_STYLES)]}
