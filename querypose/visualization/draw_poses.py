"""Persons drawn on a photograph: limbs coloured by side, boxes and labels by person.

Notation: n persons, K keypoints. Coordinates are Detectron2's: pixels of the image, where the first pixel's
centre is (0.5, 0.5). OpenCV's drawing calls put that centre at (0, 0), hence every `- 0.5` here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from querypose.errors import UserError

# Okabe and Ito's palette: told apart with any common colour blindness. A side has one colour for everyone, so
# that a left-right swap is seen at once.
SIDE_COLOURS = {"left": (86, 180, 233), "right": (213, 94, 0), "middle": (240, 228, 66)}
# Boxes and labels take the colours that the sides leave over, then some of Paul Tol's.
PERSON_COLOURS = (
    (204, 121, 167),
    (0, 158, 115),
    (230, 159, 0),
    (0, 114, 178),
    (255, 255, 255),
    (136, 34, 85),
    (153, 153, 51),
    (221, 204, 119),
    (51, 34, 136),
)
CASING_COLOUR = (20, 20, 20)
COLOUR_BY = ("side", "person")
CONFIDENCE = ("both", "size", "opacity", "none")
_CROWD = 8  # with more persons than that, boxes are thinner, so that they do not hide the limbs
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Poses:
    """Persons to draw, as arrays.

    boxes: (n, 4) XYXY in pixels, or None; scores: (n,) in [0, 1], or None;
    keypoints: (n, K, 3) x, y in pixels and a confidence in [0, 1], or a COCO visibility (0 not labelled, 1
    labelled but hidden, 2 visible) if `ground_truth`.
    """

    keypoints: np.ndarray
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    ground_truth: bool = False

    def __post_init__(self):
        n = len(self.keypoints)
        if self.keypoints.ndim != 3 or self.keypoints.shape[2] != 3:
            raise UserError(f"keypoints to draw must have shape (persons, keypoints, 3), not {self.keypoints.shape}.")
        if self.boxes is not None and self.boxes.shape != (n, 4):
            raise UserError(f"boxes to draw must have shape ({n}, 4), one per person, not {self.boxes.shape}")
        if self.scores is not None and self.scores.shape != (n,):
            raise UserError(f"scores to draw must have shape ({n},), one per person, not {self.scores.shape}")

    @classmethod
    def from_instances(cls, instances, num_keypoints):
        """Read `Poses` from predictions or ground truth.

        instances: Detectron2 `Instances`, or a mapping from the same names to arrays: `pred_keypoints`,
        `pred_boxes`, `scores`, else `gt_keypoints`, `gt_boxes`; or `Poses`, returned as they are.
        Raises `UserError` if there are no keypoints in it, or not `num_keypoints` per person.
        """
        if isinstance(instances, cls):
            poses = instances
        else:
            fields = instances if isinstance(instances, Mapping) else instances.get_fields()
            ground_truth = "pred_keypoints" not in fields
            prefix = "gt" if ground_truth else "pred"
            if f"{prefix}_keypoints" not in fields:
                raise UserError(f"nothing to draw: neither pred_keypoints nor gt_keypoints are among {sorted(fields)}.")
            keypoints = _as_array(fields[f"{prefix}_keypoints"])
            if keypoints.size == 0:
                keypoints = keypoints.reshape(0, num_keypoints, 3)
            boxes = fields.get(f"{prefix}_boxes")
            scores = None if ground_truth else fields.get("scores")
            poses = cls(
                keypoints=keypoints,
                boxes=None if boxes is None else _as_array(boxes).reshape(-1, 4),
                scores=None if scores is None else _as_array(scores),
                ground_truth=ground_truth,
            )
        if poses.keypoints.shape[1] != num_keypoints:
            raise UserError(
                f"persons to draw have {poses.keypoints.shape[1]} keypoints but the skeleton has "
                f"{num_keypoints}: give the skeleton of the data set that the model was trained on."
            )
        return poses

    @classmethod
    def from_dataset_record(cls, record, num_keypoints):
        """Read the ground truth in a Detectron2 data set record (boxes XYWH, keypoints already +0.5)."""
        annotations = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
        unlabelled = [0.0] * (3 * num_keypoints)
        keypoints = np.array([a.get("keypoints", unlabelled) for a in annotations], dtype=np.float64)
        boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return cls(keypoints=keypoints.reshape(-1, num_keypoints, 3), boxes=boxes, ground_truth=True)


def _as_array(values):
    """Turn a tensor, a `Boxes`, a `Keypoints` or an array into a float64 array."""
    values = getattr(values, "tensor", values)
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=np.float64)


def draw_poses(
    image_rgb,
    instances,
    skeleton,
    *,
    score_threshold=0.3,
    keypoint_threshold=0.5,
    show_boxes=True,
    show_scores=True,
    colour_by="side",
    confidence="both",
    scale=None,
):
    """Draw persons on a copy of an image.

    image_rgb: (H, W, 3) uint8, RGB.
    instances: predictions or ground truth, see `Poses.from_instances`, in pixels of `image_rgb`.
    skeleton: names the limbs and the side ("left", "right", "middle") of every keypoint.
    score_threshold: predicted persons below it are left out; keypoint_threshold: so are predicted keypoints,
    and limbs of which an end is left out.
    colour_by: "side", the same for everyone, so that a left-right swap is seen; or "person".
    confidence: what a surer keypoint above the threshold is: larger ("size"), more opaque ("opacity"), "both" or
    neither ("none").
    Labelled but hidden ground truth keypoints are hollow and fainter.
    scale: how many times to enlarge the image before drawing; None enlarges only images under 400 pixels, 2
    to 4 times.

    Returns (round(scale * H), round(scale * W), 3) uint8, RGB.
    """
    image_rgb = np.asarray(image_rgb)
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
        raise UserError(
            f"an image to draw on must be uint8 of shape (H, W, 3), not {image_rgb.dtype} of {image_rgb.shape}."
        )
    for name, value, valid in (
        ("colour_by", colour_by, COLOUR_BY),
        ("confidence", confidence, CONFIDENCE),
    ):
        if value not in valid:
            raise UserError(f"{name} of a drawing must be one of {', '.join(valid)}, not {value}.")
    scale = default_scale(*image_rgb.shape[:2]) if scale is None else scale
    if not 0 < scale < np.inf:
        raise UserError(f"the scale of a drawing must be a positive number, not {scale}.")
    canvas = _enlarge(image_rgb, scale)
    poses = Poses.from_instances(instances, skeleton.num_keypoints)

    persons = range(len(poses.keypoints))
    if poses.scores is not None:
        persons = np.flatnonzero(poses.scores >= score_threshold)
    keypoints = poses.keypoints * (scale, scale, 1.0)
    boxes = _boxes_around(keypoints, keypoint_threshold) if poses.boxes is None else poses.boxes * scale
    # Large persons first: the marks of a small one in front of them, or behind, then stay on top.
    persons = sorted(persons, key=lambda i: -_area(boxes[i]))
    if show_boxes and poses.boxes is not None:
        for i in persons:
            _draw_box(canvas, boxes[i], PERSON_COLOURS[i % len(PERSON_COLOURS)], 1.0 if len(persons) <= _CROWD else 0.5)
    for i in persons:
        colours = SIDE_COLOURS
        if colour_by == "person":
            colours = dict.fromkeys(SIDE_COLOURS, PERSON_COLOURS[i % len(PERSON_COLOURS)])
        _draw_person(
            canvas, keypoints[i], boxes[i], skeleton, keypoint_threshold, poses.ground_truth, colours, confidence
        )
    if show_scores and poses.scores is not None:
        _draw_scores(canvas, persons, boxes, poses.scores)
    return canvas


def default_scale(height, width):
    """Return the whole number, at most 4, that enlarges the longer side to 400 pixels or more."""
    return int(np.clip(np.ceil(400 / max(height, width)), 1, 4))


def _enlarge(image, scale):
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return image.copy()
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)


def _area(box):
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) if np.isfinite(box).all() else 0.0


def _boxes_around(keypoints, threshold):
    """Return the boxes (n, 4) around keypoints whose third number reaches `threshold`, or zeros."""
    boxes = np.zeros((len(keypoints), 4))
    for box, person in zip(boxes, keypoints, strict=True):
        points = person[(person[:, 2] >= threshold) & np.isfinite(person).all(axis=1), :2]
        if len(points):
            box[:] = *points.min(axis=0), *points.max(axis=0)
    return boxes


def _draw_person(canvas, keypoints, box, skeleton, threshold, ground_truth, colours, confidence):
    """Draw one person's limbs, then keypoints. keypoints (K, 3) and box (4,) are in pixels of the canvas."""
    third = np.nan_to_num(keypoints[:, 2])
    if ground_truth:
        shown, hollow = third > 0, third == 1
        strength = np.where(hollow, 0.4, 1.0)
    else:
        shown, hollow = third >= threshold, np.zeros(len(third), dtype=bool)
        strength = np.clip((third - threshold) / max(1.0 - threshold, 1e-6), 0.0, 1.0)
    shown = shown & np.isfinite(keypoints[:, :2]).all(axis=1)
    opacity = 0.4 + 0.6 * strength
    if not ground_truth and confidence in ("size", "none"):
        opacity = np.ones(len(third))
    size = strength if ground_truth or confidence in ("size", "both") else np.ones(len(third))
    points = keypoints[:, :2] - 0.5

    # Half the width of a limb, in pixels: by the person's size, within what is legible on this canvas.
    half_width = float(np.clip(0.007 * np.sqrt(_area(box)), 0.9, max(1.2, 0.005 * max(canvas.shape[:2]))))
    casing = max(0.7, 0.35 * half_width)

    limbs = [(i, j) for i, j in skeleton.limbs if shown[i] and shown[j]]
    for i, j in limbs:
        faint = 0.5 * min(opacity[i], opacity[j])
        _fill_capsule(canvas, points[i], points[j], half_width + casing, CASING_COLOUR, faint)
    for i, j in limbs:
        colour = colours[limb_side(skeleton, i, j)]
        _fill_capsule(canvas, points[i], points[j], half_width, colour, min(opacity[i], opacity[j]))
    for i in np.flatnonzero(shown):
        radius = 1.7 * half_width * (0.6 + 0.4 * size[i])
        _fill_capsule(canvas, points[i], points[i], radius + casing, CASING_COLOUR, opacity[i])
        _fill_capsule(canvas, points[i], points[i], radius, colours[skeleton.sides[i]], opacity[i])
        if hollow[i]:
            _fill_capsule(canvas, points[i], points[i], 0.6 * radius, CASING_COLOUR, opacity[i])


def limb_side(skeleton, i, j):
    """Return the side of the limb from keypoint i to j: its ends' side, "middle" if they disagree."""
    sides = {skeleton.sides[i], skeleton.sides[j]} - {"middle"}
    return sides.pop() if len(sides) == 1 else "middle"


def _fill_capsule(canvas, start, end, radius, colour, opacity):
    """Blend all within `radius` of the segment from start to end (OpenCV's coordinates) into the canvas."""
    height, width = canvas.shape[:2]
    margin = 4 * radius + 4
    ends = _clip_segment(start, end, (-margin, -margin), (width + margin, height + margin))
    if ends is None:
        return
    start, end = ends
    angle = np.arctan2(end[1] - start[1], end[0] - start[0])
    half_turn = np.linspace(-np.pi / 2, np.pi / 2, 13)
    around_end = end + radius * np.stack([np.cos(angle + half_turn), np.sin(angle + half_turn)], axis=1)
    around_start = start - radius * np.stack([np.cos(angle + half_turn), np.sin(angle + half_turn)], axis=1)
    outline = np.concatenate([around_end, around_start])

    # Only the touched rectangle is copied and blended: a crowd has thousands of marks.
    low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 2, (width, height))
    if (high <= low).any():
        return
    region = canvas[low[1] : high[1], low[0] : high[0]]
    layer = region.copy()
    outline = np.round((outline - low) * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillConvexPoly(layer, outline, colour, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    region[:] = layer if opacity >= 1 else cv2.addWeighted(layer, opacity, region, 1 - opacity, 0)


def _clip_segment(start, end, low, high):
    """Return the part of a segment inside the rectangle from low to high, or None (Liang and Barsky).

    Keypoints may lie far outside the image, where OpenCV's fixed-point coordinates would overflow.
    """
    step = end - start
    first, last = 0.0, 1.0
    for axis in range(2):
        if step[axis] == 0:
            if not low[axis] <= start[axis] <= high[axis]:
                return None
            continue
        enter, leave = sorted(((low[axis] - start[axis]) / step[axis], (high[axis] - start[axis]) / step[axis]))
        first, last = max(first, enter), min(last, leave)
    return None if first > last else (start + first * step, start + last * step)


def _visible_corners(canvas, box):
    """Return the box's corner pixels x0, y0, x1, y1, cut to the canvas, or None if it lies outside."""
    height, width = canvas.shape[:2]
    if not np.isfinite(box).all() or box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
        return None
    # Clipped before rounding, since a box may lie beyond what an integer holds.
    return tuple(int(v) for v in np.round(np.clip(box - 0.5, 0, (width - 1, height - 1, width - 1, height - 1))))


def _draw_box(canvas, box, colour, width):
    """width: of the line, relative to that of a few persons' boxes."""
    corners = _visible_corners(canvas, box)
    if corners is not None:
        thickness = max(1, round(0.003 * width * max(canvas.shape[:2])))
        cv2.rectangle(canvas, corners[:2], corners[2:], colour, thickness)


def _draw_scores(canvas, persons, boxes, scores):
    """Write each person's score on a plate of its box's colour, where no earlier plate lies."""
    size = int(np.clip(0.022 * max(canvas.shape[:2]), 11, 40))
    taken = []
    for i in persons:
        corners = _visible_corners(canvas, boxes[i])
        if corners is None:
            continue
        text = f"{scores[i]:.2f}"
        width, height = label_size(text, size)
        x0, y0, x1, y1 = corners
        places = [
            (x0, y0 - height),
            (x0, y0),
            (x1 - width, y0 - height),
            (x1 - width, y0),
            (x0, y1),
            (x0, y1 - height),
        ]
        limit_x, limit_y = max(canvas.shape[1] - width, 0), max(canvas.shape[0] - height, 0)
        places = [(min(max(x, 0), limit_x), min(max(y, 0), limit_y)) for x, y in places]
        free = (p for p in places if not any(abs(p[0] - x) < width and abs(p[1] - y) < height for x, y in taken))
        place = next(free, places[0])
        taken.append(place)
        draw_label(canvas, text, place, size=size, background=PERSON_COLOURS[i % len(PERSON_COLOURS)])


@lru_cache
def _font(size):
    return ImageFont.load_default(size)


def label_size(text, size):
    """Return the width and height in pixels of the plate that `draw_label` draws."""
    return int(np.ceil(_font(size).getlength(text))) + 2 * max(2, size // 5), size + 2 * max(1, size // 6)


def draw_label(canvas, text, top_left, *, size, background):
    """Write a line of text on a plate, in place.

    canvas: (H, W, 3) uint8; top_left: x, y of the plate's first pixel; size: font size in pixels;
    background: RGB of the plate. The text is black or white, whichever is read more easily on it.
    """
    width, height = label_size(text, size)
    ink = 0 if np.dot(background, (0.299, 0.587, 0.114)) > 120 else 255
    plate = Image.new("RGB", (width, height), tuple(background))
    ImageDraw.Draw(plate).text((width / 2, height / 2), text, font=_font(size), fill=(ink,) * 3, anchor="mm")
    x, y = top_left
    region = canvas[max(y, 0) : y + height, max(x, 0) : x + width]
    region[:] = np.asarray(plate)[max(-y, 0) :, max(-x, 0) :][: region.shape[0], : region.shape[1]]
