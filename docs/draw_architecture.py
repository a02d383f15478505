"""Draw the model as boxes and arrows, as docs/HOW_IT_WORKS.md shows it:
python docs/draw_architecture.py
"""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from querypose.visualization.plots import save_figure

# light fills, from Okabe and Ito's palette on which black text is legible
IMAGE, BOX, KEYPOINT, QUERY, RESULT = "#eeeeee", "#cfe6f5", "#fbdcc6", "#fff3b8", "#cdeee0"
LINE = "#333333"

# left, bottom, width, height, color, title, text
BOXES = (
    (2, 60, 13, 10, IMAGE, "preprocess", "image\n(3, H, W)"),
    (20, 60, 13, 10, IMAGE, "backbone", "p2 .. p5\n(d, H/4, W/4) .."),
    (2, 47, 31, 9, QUERY, "learnable queries", "proposal_boxes (N, 4)\ninstance_queries (N, d)"),
    (2, 39, 31, 5, QUERY, "", "part_queries (M, dp)"),
    (40, 60, 20, 12, BOX, "BoxStage", "7x7 RoI features of p2 .. p5\nclass, box, instance query"),
    (40, 40, 20, 12, KEYPOINT, "KeypointStage", "14x14 RoI features of p2\nkeypoints, part queries"),
    (72, 60, 20, 12, BOX, "BoxStage", "7x7 RoI features of p2 .. p5\nclass, box, instance query"),
    (72, 40, 20, 12, KEYPOINT, "KeypointStage", "14x14 RoI features of p2\nkeypoints, part queries"),
    (98, 60, 20, 12, RESULT, "in training", "HungarianMatcher and\nSetCriterion: losses"),
    (98, 40, 20, 12, RESULT, "in inference", "Instances: pred_boxes,\nscores, pred_keypoints"),
    (2, 16, 14, 10, IMAGE, "pool_regions", "RoIAlign of p2\n(d, 14, 14)"),
    (20, 16, 14, 10, KEYPOINT, "tower", "3x3 convolutions\n(d, 14, 14)"),
    (39, 16, 18, 10, KEYPOINT, "part_embedding", "SPEGM: M maps, sums\nE (M, dp)"),
    (62, 16, 18, 10, KEYPOINT, "part_update", "SelectiveIteration:\ngates for E and Q (M, dp)"),
    (85, 16, 14, 10, KEYPOINT, "self_attention", "parts of a person;\nfeedforward"),
    (104, 16, 14, 10, KEYPOINT, "heads", "KeypointHeads:\nx, y and sigma (K, 2)"),
    (16, 2, 26, 8, QUERY, "instance query (d)", "instance_interaction updates it\n(full and branched variants)"),
    (66, 2, 22, 8, QUERY, "part queries Q (M, dp)", "of the stage before"),
)
ARROWS = (
    ((15, 65), (20, 65)), ((33, 66), (40, 66)), ((33, 52), (40, 62)), ((33, 41.5), (40, 43)), ((50, 60), (50, 52)),
    ((82, 60), (82, 52)), ((60, 68), (72, 68)), ((60, 43.5), (72, 43.5)), ((92, 68), (98, 68)), ((92, 44), (98, 44)),
    ((92, 61.5), (98, 51)), ((92, 50.5), (98, 61)), ((16, 21), (20, 21)), ((34, 21), (39, 21)), ((57, 21), (62, 21)),
    ((80, 21), (85, 21)), ((99, 21), (104, 21)), ((59.5, 6), (59.5, 21)), ((71, 10), (71, 16)), ((91, 16), (86, 10)),
)  # fmt: skip
DASHED_ARROWS = (((60, 50.5), (72, 62)), ((27, 16), (27, 10)))
LABELS = (
    (36.5, 67.4, "features", "center"), (49.2, 56, "boxes", "right"), (50.8, 56, "instance queries", "left"),
    (81.2, 56, "boxes", "right"), (82.8, 56, "instance queries", "left"), (66, 69.4, "boxes, queries", "center"),
    (66.3, 48.8, "instance queries\n(full variant)", "center"), (66, 42, "part queries", "center"),
    (50, 7.4, "instance_to_part", "center"), (58.8, 12, "added to E", "right"),
    (89.5, 12.3, "for the next stage", "left"),
)  # fmt: skip


def draw_architecture(path):
    """Draw the whole model above, and one keypoint stage below."""
    figure = Figure(figsize=(12.0, 8.6), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 120), ylim=(0, 86), frame_on=False, xticks=[], yticks=[])

    def write(x, y, text, size=8.2, ha="center", weight="normal"):
        axes.text(x, y, text, fontsize=size, ha=ha, weight=weight, va="center", color="black", linespacing=1.25)

    title_style = {"size": 12, "ha": "left", "weight": "bold"}
    write(2, 81, "The model: meta_arch.QueryPose", **title_style)
    write(2, 31, "Inside a stage: keypoint_stage.KeypointStage, for each of R persons", **title_style)
    for left, bottom, width, height, color, title, text in BOXES:
        style = "round,pad=0,rounding_size=1"
        axes.add_patch(FancyBboxPatch((left, bottom), width, height, style, fc=color, ec=LINE, lw=1))
        write(left + width / 2, bottom + height - 2.2, title, size=9.5, weight="bold")
        write(left + width / 2, bottom + (height - 3.8 if title else height) / 2, text)
    arrow = {"arrowstyle": "-|>", "mutation_scale": 11, "color": LINE, "shrinkA": 0, "shrinkB": 0}
    for style, arrows in (("solid", ARROWS), ("dashed", DASHED_ARROWS)):
        for start, end in arrows:
            axes.annotate("", end, start, arrowprops={**arrow, "linestyle": style})
    for x, y, text, ha in LABELS:
        write(x, y, text, size=7.5, ha=ha)
    for middle, stage in ((50, "stage 1"), (82, "stage S")):
        write(middle, 74.5, stage, weight="bold")
    for level in (66.4, 45.2):
        write(66, level, "· · ·")
    axes.plot([2, 118], [34.5, 34.5], color="#bbbbbb", linewidth=1)
    axes.plot([42, 59.5], [6, 6], color=LINE, linewidth=1)
    # the same file from the same code: no date, no random names
    with matplotlib.rc_context({"svg.hashsalt": "querypose"}):
        save_figure(figure, path, metadata={"Date": None})


if __name__ == "__main__":
    draw_architecture(Path(__file__).parent / "images" / "architecture.svg")
