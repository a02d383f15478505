"""The figure of docs/HOW_IT_WORKS.md: the model as boxes and arrows, with the names of its modules."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from querypose.visualization.plots import save_figure

# light fills, from Okabe and Ito's palette on which black text is legible
IMAGE, BOX, KEYPOINT, QUERY, RESULT = "#eeeeee", "#cfe6f5", "#fbdcc6", "#fff3b8", "#cdeee0"
LINE = "#333333"


def draw_architecture(path: str | Path) -> Path:
    """Draw the whole model above, and one keypoint stage below, as of `save_figure`; return the path."""
    figure = Figure(figsize=(12.0, 8.6), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 120), ylim=(0, 86), frame_on=False, xticks=[], yticks=[])
    _draw_model(axes)
    _draw_keypoint_stage(axes)
    # the same file from the same code: no date, no random names
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(Path(path).suffix.lower())
    with matplotlib.rc_context({"svg.hashsalt": "querypose"}):
        return save_figure(figure, path, metadata=metadata)


def _draw_model(axes: Axes) -> None:
    _title(axes, 2, 81, "The model: meta_arch.QueryPose")
    _box(axes, 2, 60, 13, 10, IMAGE, "preprocess", "image\n(3, H, W)")
    _box(axes, 20, 60, 13, 10, IMAGE, "backbone", "p2 .. p5\n(d, H/4, W/4) ..")
    _arrow(axes, (15, 65), (20, 65))
    _box(axes, 2, 47, 31, 9, QUERY, "learnable queries", "proposal_boxes (N, 4)\ninstance_queries (N, d)")
    _box(axes, 2, 39, 31, 5, QUERY, "", "part_queries (M, dp)")
    _arrow(axes, (33, 66), (40, 66))
    _text(axes, 36.5, 67.4, "features", size=7.5)
    _arrow(axes, (33, 52), (40, 62))
    _arrow(axes, (33, 41.5), (40, 43))

    for name, left in (("stage 1", 40), ("stage S", 72)):
        _box(axes, left, 60, 20, 12, BOX, "BoxStage", "7x7 RoI features of p2 .. p5\nclass, box, instance query")
        _box(axes, left, 40, 20, 12, KEYPOINT, "KeypointStage", "14x14 RoI features of p2\nkeypoints, part queries")
        _text(axes, left + 10, 74.5, name, weight="bold")
        _arrow(axes, (left + 10, 60), (left + 10, 52))
        _text(axes, left + 9.2, 56, "boxes", size=7.5, ha="right")
        _text(axes, left + 10.8, 56, "instance queries", size=7.5, ha="left")
    _arrow(axes, (60, 68), (72, 68))
    _text(axes, 66, 69.4, "boxes, queries", size=7.5)
    _text(axes, 66, 66.4, "· · ·")
    _arrow(axes, (60, 50.5), (72, 62), style="dashed")
    _text(axes, 66.3, 48.8, "instance queries\n(full variant)", size=7.5)
    _arrow(axes, (60, 43.5), (72, 43.5))
    _text(axes, 66, 42, "part queries", size=7.5)
    _text(axes, 66, 45.2, "· · ·")

    _box(axes, 98, 60, 20, 12, RESULT, "in training", "HungarianMatcher and\nSetCriterion: losses")
    _box(axes, 98, 40, 20, 12, RESULT, "in inference", "Instances: pred_boxes,\nscores, pred_keypoints")
    _arrow(axes, (92, 68), (98, 68))
    _arrow(axes, (92, 44), (98, 44))
    _arrow(axes, (92, 61.5), (98, 51))
    _arrow(axes, (92, 50.5), (98, 61))


def _draw_keypoint_stage(axes: Axes) -> None:
    axes.plot([2, 118], [34.5, 34.5], color="#bbbbbb", linewidth=1)
    _title(axes, 2, 31, "Inside a stage: keypoint_stage.KeypointStage, for each of R persons")
    _box(axes, 2, 16, 14, 10, IMAGE, "pool_regions", "RoIAlign of p2\n(d, 14, 14)")
    _box(axes, 20, 16, 14, 10, KEYPOINT, "tower", "3x3 convolutions\n(d, 14, 14)")
    _box(axes, 39, 16, 18, 10, KEYPOINT, "part_embedding", "SPEGM: M maps, sums\nE (M, dp)")
    _box(axes, 62, 16, 18, 10, KEYPOINT, "part_update", "SelectiveIteration:\ngates for E and Q (M, dp)")
    _box(axes, 85, 16, 14, 10, KEYPOINT, "self_attention", "parts of a person;\nfeedforward")
    _box(axes, 104, 16, 14, 10, KEYPOINT, "heads", "KeypointHeads:\nx, y and sigma (K, 2)")
    for start, end in ((16, 20), (34, 39), (57, 62), (80, 85), (99, 104)):
        _arrow(axes, (start, 21), (end, 21))
    note = "instance_interaction updates it\n(full and branched variants)"
    _box(axes, 16, 2, 26, 8, QUERY, "instance query (d)", note)
    _arrow(axes, (27, 16), (27, 10), style="dashed")
    axes.plot([42, 59.5], [6, 6], color=LINE, linewidth=1)
    _arrow(axes, (59.5, 6), (59.5, 21))
    _text(axes, 50, 7.4, "instance_to_part", size=7.5)
    _text(axes, 58.8, 12, "added to E", size=7.5, ha="right")
    _box(axes, 66, 2, 22, 8, QUERY, "part queries Q (M, dp)", "of the stage before")
    _arrow(axes, (71, 10), (71, 16))
    _arrow(axes, (91, 16), (86, 10))
    _text(axes, 89.5, 12.3, "for the next stage", size=7.5, ha="left")


def _box(
    axes: Axes, left: float, bottom: float, width: float, height: float, color: str, title: str, text: str
) -> None:
    shape = FancyBboxPatch((left, bottom), width, height, "round,pad=0,rounding_size=1", fc=color, ec=LINE, lw=1)
    axes.add_patch(shape)
    _text(axes, left + width / 2, bottom + height - 2.2, title, size=9.5, weight="bold")
    _text(axes, left + width / 2, bottom + (height - 3.8 if title else height) / 2, text)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "solid") -> None:
    arrow = {"arrowstyle": "-|>", "mutation_scale": 11, "linestyle": style, "color": LINE, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=arrow)


def _text(axes: Axes, x: float, y: float, text: str, size: float = 8.2, ha: str = "center", **style: Any) -> None:
    axes.text(x, y, text, fontsize=size, ha=ha, va="center", color="black", linespacing=1.25, **style)


def _title(axes: Axes, x: float, y: float, text: str) -> None:
    _text(axes, x, y, text, size=12, ha="left", weight="bold")
