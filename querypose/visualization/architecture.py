"""The figure of docs/HOW_IT_WORKS.md: the model as boxes and arrows, with the names of its modules."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from querypose.errors import UserError

# light fills, from Okabe and Ito's palette, that black text stands out on
IMAGE, BOX, KEYPOINT, QUERY, RESULT = "#eeeeee", "#cfe6f5", "#fbdcc6", "#fff3b8", "#cdeee0"
LINE = "#333333"


def draw_architecture(path: str | Path) -> Path:
    """Draw the whole model above, and one keypoint stage below, into an SVG, PNG or PDF file; returns its path.

    Raises `UserError` for another ending or a place that cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise UserError(f"{path} must end in .svg, .png or .pdf")
    figure = Figure(figsize=(12.0, 8.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 120), ylim=(0, 86))
    axes.axis("off")
    axes.add_patch(Rectangle((0, 0), 120, 86, color="white"))
    _draw_model(axes)
    _draw_keypoint_stage(axes)
    # the same file from the same code: no date, no random names
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    try:
        with matplotlib.rc_context({"svg.hashsalt": "querypose"}):
            figure.savefig(path, dpi=110, metadata=metadata)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    return path


def _draw_model(axes) -> None:
    _title(axes, 2, 82, "The model: meta_arch.QueryPose")
    _box(axes, 2, 58, 13, 10, IMAGE, "image", "(3, H, W)\nQueryPose.preprocess")
    _box(axes, 20, 58, 13, 10, IMAGE, "backbone", "p2 .. p5\nQueryPose.extract")
    _arrow(axes, (15, 63), (20, 63))
    _box(axes, 2, 44.5, 31, 9, QUERY, "learnable queries (QueryPoseDecoder)", "proposal_boxes (N, 4)\ninstance_queries (N, d)")
    _box(axes, 2, 38, 31, 5, QUERY, "", "part_queries (M, dp)")

    for index, left in enumerate((40, 70)):
        _box(axes, left, 60, 20, 13, BOX, "BoxStage", "7x7 regions of p2 .. p5\nclass, box, instance query")
        _box(axes, left, 40, 20, 13, KEYPOINT, "KeypointStage", "14x14 regions of p2\nkeypoints, part queries")
        _text(axes, left + 10, 76, f"stage {('1', 'S')[index]}", weight="bold")
        _arrow(axes, (left + 6, 60), (left + 6, 53))
        _text(axes, left + 5.3, 56.4, "boxes", ha="right")
        _arrow(axes, (left + 14, 60), (left + 14, 53))
        _text(axes, left + 14.8, 56.4, "instance queries", ha="left", size=7.5)
    _arrow(axes, (33, 65), (40, 65))
    _arrow(axes, (33, 50), (40, 61.5))
    _arrow(axes, (33, 41), (40, 42.5))
    _text(axes, 36.5, 66.2, "features", size=7.5)
    _arrow(axes, (60, 68), (70, 68))
    _text(axes, 65, 69.6, "boxes, queries", size=7.5)
    _text(axes, 65, 65.2, "· · ·")
    _arrow(axes, (60, 43), (70, 43))
    _text(axes, 65, 41, "part queries", size=7.5)
    _text(axes, 65, 45.0, "· · ·")
    _arrow(axes, (60, 51.5), (70, 61.5), style="dashed")
    _text(axes, 66.2, 54.0, "full variant:\ninstance queries", size=7.5, ha="left", va="top")

    _box(axes, 97, 60, 21, 13, RESULT, "in training", "HungarianMatcher, SetCriterion\nlosses of every stage")
    _box(axes, 97, 40, 21, 13, RESULT, "in inference", "Instances: pred_boxes, scores,\npred_keypoints (n, K, 3)")
    _arrow(axes, (90, 66.5), (97, 66.5))
    _arrow(axes, (90, 46.5), (97, 46.5))
    _arrow(axes, (90, 62), (97, 51))
    _arrow(axes, (90, 51), (97, 62))


def _draw_keypoint_stage(axes) -> None:
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
    _box(axes, 20, 2, 22, 8, QUERY, "instance query (d)", "instance_interaction updates it\n(full and branched variants)")
    _arrow(axes, (27, 16), (27, 10), style="dashed")
    _arrow(axes, (42, 6), (59.5, 20))
    _text(axes, 54, 9.0, "instance_to_part: + E", size=7.5, ha="left")
    _box(axes, 72, 2, 20, 8, QUERY, "part queries Q (M, dp)", "of the stage before")
    _arrow(axes, (75, 10), (71, 16))
    _arrow(axes, (92, 16), (88, 10))
    _text(axes, 90.8, 12.3, "for the next stage", size=7.5, ha="left")


def _box(axes, left: float, bottom: float, width: float, height: float, colour: str, title: str, text: str) -> None:
    shape = FancyBboxPatch(
        (left, bottom), width, height, "round,pad=0,rounding_size=1", facecolor=colour, edgecolor=LINE, linewidth=1
    )
    axes.add_patch(shape)
    middle = left + width / 2
    if not title:
        _text(axes, middle, bottom + height / 2, text)
        return
    _text(axes, middle, bottom + height - 2.2, title, size=9.5, weight="bold")
    _text(axes, middle, (bottom + height - 3.8 + bottom) / 2, text)


def _arrow(axes, start: tuple[float, float], end: tuple[float, float], style: str = "solid") -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=11, linestyle=style, color=LINE, shrinkA=0, shrinkB=0
        )
    )


def _text(axes, x: float, y: float, text: str, size: float = 8.2, ha: str = "center", va: str = "center", **style):
    axes.text(x, y, text, fontsize=size, ha=ha, va=va, color="black", linespacing=1.25, **style)


def _title(axes, x: float, y: float, text: str) -> None:
    _text(axes, x, y, text, size=12, ha="left", weight="bold")
