"""Draw persons on an image: limbs colored by side, boxes and scores by person.

Coordinates are Detectron2's, where the first pixel's center is (0.5, 0.5). OpenCV's drawing calls put that center at
(0, 0), hence every `- 0.5` here.
"""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from querypose.errors import UserError
from querypose.skeleton import SIDE_COLORS, Skeleton
from querypose.structures import SCORE_THRESHOLD
from querypose.visualization.poses import Poses

# The colors of Okabe and Ito's palette that the sides leave over, then some of Paul Tol's.
PERSON_COLORS = (
    (204, 121, 167), (0, 158, 115), (230, 159, 0), (0, 114, 178), (255, 255, 255),
    (136, 34, 85), (153, 153, 51), (221, 204, 119), (51, 34, 136),
)  # fmt: skip
CASING_COLOR = (20, 20, 20)
COLOR_BY = ("side", "person")
CONFIDENCE = ("both", "size", "opacity", "none")
_CROWD = 8  # boxes of more persons than that are thinner, so that they do not hide the limbs
_FAR = 1e6  # pixels; OpenCV's fixed-point coordinates overflow beyond some hundred millions

_Color = tuple[int, int, int]
_Colors = dict[str, _Color]


def draw_poses(
    image_rgb: np.ndarray,
    instances: Any,
    skeleton: Skeleton,
    *,
    score_threshold: float = SCORE_THRESHOLD,
    keypoint_threshold: float = 0.5,
    show_boxes: bool = True,
    show_scores: bool = True,
    color_by: str = "side",
    confidence: str = "both",
    sigmas: float = 0,
    scale: float | None = None,
) -> np.ndarray:
    """Draw persons on a copy of an image (H, W, 3) uint8 and return it, scaled.

    instances: predictions or ground truth in pixels of the image, see `Poses.from_instances`. Persons with `track_ids`
    have the color of their id.
    score_threshold, keypoint_threshold: predicted persons, keypoints and limbs with an end below it are not drawn.
    color_by: "side", the same for every person, so that a left-right swap is visible; or "person".
    confidence: what shows the confidence of a keypoint above the threshold: "size", "opacity", "both" or "none".
    Labeled but hidden ground truth keypoints are hollow and fainter.
    sigmas: half axes of the ellipses around keypoints, in predicted sigmas (True: one); 0 or False draws none.
    scale: resize the image by this factor before drawing; None enlarges only images below 400 pixels, 2 to 4 times.
    """
    for name, value, valid in (("color_by", color_by, COLOR_BY), ("confidence", confidence, CONFIDENCE)):
        if value not in valid:
            raise UserError(f"{name} must be one of {', '.join(valid)}, not {value}.")
    poses = Poses.from_instances(instances, skeleton.num_keypoints)
    if sigmas and poses.sigmas is None:
        raise UserError("these persons have no pred_keypoint_sigmas: the loss of their model must use sigma.")
    height, width = image_rgb.shape[:2]
    scale = default_scale(height, width) if scale is None else scale
    size = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = cv2.resize(image_rgb, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)

    keypoints = poses.keypoints * (scale, scale, 1.0)
    boxes = _boxes_around(keypoints, keypoint_threshold) if poses.boxes is None else poses.boxes * scale
    areas = np.nan_to_num(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0), axis=1), nan=0.0)
    shown = np.full(len(keypoints), True) if poses.scores is None else poses.scores >= score_threshold
    # Large persons first: the marks of a small one in front of them, or behind, then stay on top.
    persons = sorted(np.flatnonzero(shown).tolist(), key=lambda i: -areas[i])
    ids = np.arange(len(keypoints)) if poses.track_ids is None else poses.track_ids
    colors = [PERSON_COLORS[i % len(PERSON_COLORS)] if i >= 0 else CASING_COLOR for i in ids.tolist()]
    corners = {i: c for i in persons if (c := _visible_corners(canvas, boxes[i]))}
    if show_boxes and poses.boxes is not None:
        thickness = max(1, round((0.003 if len(persons) <= _CROWD else 0.0015) * max(size)))
        for i, (x0, y0, x1, y1) in corners.items():
            cv2.rectangle(canvas, (x0, y0), (x1, y1), colors[i], thickness)
    marks = _marks(keypoints, keypoint_threshold, confidence, poses.ground_truth)
    for i in persons:
        # Half the width of a limb, in pixels: by the person's size, within what is legible on this canvas.
        half_width = float(np.clip(0.007 * np.sqrt(areas[i]), 0.9, max(1.2, 0.005 * max(size))))
        side_colors = SIDE_COLORS if color_by == "side" else dict.fromkeys(SIDE_COLORS, colors[i])
        _draw_person(canvas, keypoints[i], marks[i], half_width, skeleton, side_colors)
        if sigmas and poses.sigmas is not None:
            shapes = np.concatenate([keypoints[i, :, :2] - 0.5, sigmas * scale * poses.sigmas[i]], axis=1)
            _draw_ellipses(canvas, shapes, marks[i, :, 0], [side_colors[side] for side in skeleton.sides])
    if show_scores and poses.scores is not None:
        names = ["" if poses.track_ids is None or i < 0 else f"#{i}: " for i in ids.tolist()]
        texts = [f"{name}{score:.2f}" for name, score in zip(names, poses.scores, strict=True)]
        _draw_labels(canvas, corners, texts, colors)
    return canvas


def default_scale(height: int, width: int) -> int:
    """Return the integer, at most 4, that enlarges the longer side to 400 pixels or more."""
    return int(np.clip(np.ceil(400 / max(height, width)), 1, 4))


def _boxes_around(keypoints: np.ndarray, threshold: float) -> np.ndarray:
    """The boxes (n, 4) around the keypoints (n, K, 3) whose confidence reaches `threshold`, inverted without any."""
    used = ((keypoints[..., 2] >= threshold) & np.isfinite(keypoints).all(axis=-1))[..., None]
    low, high = (np.where(used, keypoints[..., :2], limit) for limit in (_FAR, -_FAR))
    return np.concatenate([low.min(axis=1), high.max(axis=1)], axis=1)


def _marks(keypoints: np.ndarray, threshold: float, confidence: str, ground_truth: bool) -> np.ndarray:
    """Opacity, relative size, at most 1 and NaN if left out, and hollowness of keypoints (n, K, 3): (n, K, 3)."""
    third = keypoints[..., 2]
    if ground_truth:
        strength = np.select([third == 2, third == 1], [1.0, 0.4], np.nan)
    else:
        strength = np.where(third >= threshold, (third - threshold) / max(1.0 - threshold, 1e-6), np.nan).clip(max=1)
    strength[~np.isfinite(keypoints).all(axis=-1)] = np.nan
    constant = 1 + 0 * strength
    opacity = 0.4 + 0.6 * (strength if ground_truth or confidence in ("opacity", "both") else constant)
    size = 0.6 + 0.4 * (strength if ground_truth or confidence in ("size", "both") else constant)
    return np.stack([opacity, size, (third == 1) & ground_truth], axis=-1)


def _draw_person(
    canvas: np.ndarray, keypoints: np.ndarray, marks: np.ndarray, half_width: float, skeleton: Skeleton, colors: _Colors
) -> None:
    """Draw limbs, then keypoints (K, 3) in pixels of the canvas; marks: (K, 3), as of `_marks`; colors: by side."""
    opacity, size, hollow = marks.T
    radius, casing = 1.7 * half_width * size, max(0.7, 0.35 * half_width)
    points = np.clip(keypoints[:, :2] - 0.5, -_FAR, _FAR)
    limbs = [(i, j, min(opacity[i], opacity[j])) for i, j in skeleton.limbs if np.isfinite(opacity[[i, j]]).all()]
    for i, j, strength in limbs:
        _fill_capsule(canvas, points[i], points[j], half_width + casing, CASING_COLOR, 0.5 * strength)
    for i, j, strength in limbs:
        _fill_capsule(canvas, points[i], points[j], half_width, colors[skeleton.limb_side(i, j)], strength)
    for i in np.flatnonzero(np.isfinite(opacity)).tolist():
        discs = [(radius[i] + casing, CASING_COLOR), (radius[i], colors[skeleton.sides[i]])]
        if hollow[i]:
            discs.append((0.6 * radius[i], CASING_COLOR))
        for extent, color in discs:
            _fill_capsule(canvas, points[i], points[i], extent, color, opacity[i])


def _draw_ellipses(canvas: np.ndarray, ellipses: np.ndarray, opacity: np.ndarray, colors: list[_Color]) -> None:
    """Outline ellipses (K, 4): center and half axes in pixels, OpenCV's coordinates; not where opacity (K,) is NaN."""
    for i in np.flatnonzero(np.isfinite(opacity) & np.isfinite(ellipses).all(axis=1)).tolist():
        # 16ths of a pixel; what is far outside would overflow
        x, y, a, b = np.round(16 * np.clip(ellipses[i], -_FAR, _FAR)).astype(int).tolist()
        for thickness, color in ((3, CASING_COLOR), (1, colors[i])):
            cv2.ellipse(canvas, (x, y), (a, b), 0, 0, 360, color, thickness, cv2.LINE_AA, shift=4)


def _fill_capsule(
    canvas: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, color: _Color, opacity: float
) -> None:
    """Blend all within `radius` of the segment from start to end (OpenCV's coordinates) into the canvas."""
    angle = np.arctan2(end[1] - start[1], end[0] - start[0]) + np.linspace(-np.pi / 2, np.pi / 2, 13)
    half_circle = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outline = np.concatenate([end + half_circle, start - half_circle])
    # Only the touched rectangle is copied and blended: a crowd has thousands of marks.
    low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 2, canvas.shape[1::-1])
    if (high <= low).any():
        return
    region = canvas[low[1] : high[1], low[0] : high[0]]
    layer = region.copy()
    cv2.fillConvexPoly(layer, np.round((outline - low) * 16).astype(np.int32), color, lineType=cv2.LINE_AA, shift=4)
    region[:] = layer if opacity >= 1 else cv2.addWeighted(layer, opacity, region, 1 - opacity, 0)


def _visible_corners(canvas: np.ndarray, box: np.ndarray) -> list[int] | None:
    """The box's corner pixels x0, y0, x1, y1, clipped to the canvas, or None if it lies outside."""
    size = np.array(canvas.shape[1::-1])
    if not np.isfinite(box).all() or (box[:2] >= size).any() or (box[2:] <= 0).any():
        return None
    # Clipped before rounding, since a box may lie beyond what an integer holds.
    return np.round(np.clip(box - 0.5, 0, np.tile(size - 1, 2))).astype(int).tolist()


def _draw_labels(canvas: np.ndarray, corners: dict[int, list[int]], texts: list[str], colors: list[_Color]) -> None:
    """Write each person's text at a corner of its box, where no earlier label lies."""
    size = int(np.clip(0.022 * max(canvas.shape[:2]), 11, 40))
    taken: list[tuple[int, int]] = []
    for i, (x0, y0, x1, y1) in corners.items():
        width, height = label_size(texts[i], size)
        places = [(x, y) for y in (y0 - height, y0) for x in (x0, x1 - width)] + [(x0, y1), (x0, y1 - height)]
        limit_x, limit_y = max(canvas.shape[1] - width, 0), max(canvas.shape[0] - height, 0)
        places = [(min(max(x, 0), limit_x), min(max(y, 0), limit_y)) for x, y in places]
        free = (p for p in places if not any(abs(p[0] - x) < width and abs(p[1] - y) < height for x, y in taken))
        taken.append(next(free, places[0]))
        draw_label(canvas, texts[i], taken[-1], size, colors[i])


font = lru_cache(ImageFont.load_default)  # Pillow's own, by its size in pixels


def label_size(text: str, size: int) -> tuple[int, int]:
    """Return the width and height in pixels of what `draw_label` draws."""
    return int(np.ceil(font(size).getlength(text))) + 2 * max(2, size // 5), size + 2 * max(1, size // 6)


def draw_label(canvas: np.ndarray, text: str, top_left: tuple[int, int], size: int, background: _Color) -> None:
    """Write a line of text into a canvas (H, W, 3): black or white, whichever has more contrast on the background."""
    ink = 0 if np.dot(background, (0.299, 0.587, 0.114)) > 120 else 255
    label = Image.new("RGB", label_size(text, size), background)
    ImageDraw.Draw(label).text((label.width / 2, label.height / 2), text, font=font(size), fill=(ink,) * 3, anchor="mm")
    x, y = top_left
    region = canvas[y : y + label.height, x : x + label.width]
    region[:] = np.asarray(label)[: region.shape[0], : region.shape[1]]
