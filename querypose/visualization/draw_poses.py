"""Draw persons on an image: limbs colored by side, boxes and scores by person, the attention of their parts.

Coordinates are Detectron2's, where the first pixel's center is (0.5, 0.5). OpenCV's drawing calls put that center at
(0, 0), hence every `- 0.5` here.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from PIL import Image, ImageDraw, ImageFont

from querypose.errors import UserError
from querypose.modeling.part_division import build_part_division, part_groups
from querypose.skeleton import SIDE_COLORS, Skeleton
from querypose.structures import SCORE_THRESHOLD

# The colors of Okabe and Ito's palette that the sides leave over, then some of Paul Tol's.
PERSON_COLORS = (
    (204, 121, 167), (0, 158, 115), (230, 159, 0), (0, 114, 178), (255, 255, 255),
    (136, 34, 85), (153, 153, 51), (221, 204, 119), (51, 34, 136),
)  # fmt: skip
CASING_COLOR = (20, 20, 20)
COLOR_BY = ("side", "person")
CONFIDENCE = ("both", "size", "opacity", "none")
_FAR = 1e6  # pixels; OpenCV's fixed-point coordinates overflow beyond some hundred millions

_Color = tuple[int, int, int]


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

    instances: Detectron2's, or a mapping of their fields, in pixels of the image: `pred_keypoints` (n, K, 3) with
    confidences in [0, 1] and maybe `pred_boxes` (n, 4) XYXY, `scores` (n,), `pred_keypoint_sigmas` (n, K, 2) and
    `track_ids` (n,), by which persons are then colored; or `gt_keypoints` with COCO's visibilities and `gt_boxes`:
    hidden keypoints are hollow and fainter.
    score_threshold, keypoint_threshold: predicted persons, keypoints and limbs with an end below it are not drawn.
    color_by: "side", the same for every person, so that a left-right swap is visible; or "person".
    confidence: what shows the confidence of a keypoint above the threshold, of `CONFIDENCE`.
    sigmas: half axes of the ellipses around keypoints, in predicted sigmas (True: one); 0 or False draws none.
    scale: resize the image by this factor before drawing; None enlarges images below 400 pixels, 2 to 4 times.
    """
    if color_by not in COLOR_BY or confidence not in CONFIDENCE:
        raise UserError(f"color_by must be one of {COLOR_BY} and confidence of {CONFIDENCE}.")
    fields = instances if isinstance(instances, Mapping) else instances.get_fields()
    kind = "pred" if "pred_keypoints" in fields else "gt"
    if sigmas and "pred_keypoint_sigmas" not in fields:
        raise UserError("these persons have no pred_keypoint_sigmas: the loss of their model must use sigma.")
    keypoints, names = as_array(fields[f"{kind}_keypoints"]), (f"{kind}_boxes", "scores", "pred_keypoint_sigmas")
    boxes, scores, half_axes = (as_array(fields[name]) if name in fields else None for name in names)
    if (number := keypoints.shape[1]) != skeleton.num_keypoints:
        raise UserError(f"persons to draw have {number} keypoints but the skeleton has {skeleton.num_keypoints}.")
    height, width = image_rgb.shape[:2]
    scale = min(max(1, -(-400 // max(height, width))), 4) if scale is None else scale
    size = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = cv2.resize(image_rgb, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)

    keypoints = keypoints * (scale, scale, 1.0)
    marks = _marks(keypoints, keypoint_threshold, confidence, kind == "gt")
    extents = _boxes_around(keypoints, marks) if boxes is None else boxes * scale
    areas = np.nan_to_num(np.maximum(extents[:, 2:] - extents[:, :2], 0.0).prod(axis=1), nan=0.0)
    shown = np.full(len(keypoints), True) if scores is None else scores >= score_threshold
    # Large persons first: the marks of a small one in front of them, or behind, then stay on top.
    persons = sorted(np.flatnonzero(shown).tolist(), key=lambda i: -areas[i])
    ids = fields["track_ids"].tolist() if "track_ids" in fields else range(len(keypoints))
    colors = [PERSON_COLORS[i % len(PERSON_COLORS)] if i >= 0 else CASING_COLOR for i in ids]
    # Clipped before rounding, since a box may lie beyond what an integer holds.
    clipped = np.clip(extents - 0.5, 0, np.tile(size, 2) - 1).round()
    inside = (extents[:, :2] < size) & (extents[:, 2:] > 0)
    corners = {i: clipped[i].astype(int).tolist() for i in persons if inside[i].all()}
    if show_boxes and boxes is not None:
        # thinner in a crowd, so that they do not hide the limbs
        thickness = max(1, round((0.003 if len(persons) <= 8 else 0.0015) * max(size)))
        for i, (x0, y0, x1, y1) in corners.items():
            cv2.rectangle(canvas, (x0, y0), (x1, y1), colors[i], thickness)
    for i in persons:
        # Half the width of a limb, in pixels: by the person's size, within what is legible on this canvas.
        half_width = float(np.clip(0.007 * np.sqrt(areas[i]), 0.9, max(1.2, 0.005 * max(size))))
        side_colors = SIDE_COLORS if color_by == "side" else dict.fromkeys(SIDE_COLORS, colors[i])
        ellipses = sigmas * scale * half_axes[i] if sigmas and half_axes is not None else None
        _draw_person(canvas, keypoints[i], ellipses, marks[i], half_width, skeleton, side_colors)
    if show_scores and scores is not None:
        tags = [f"#{i}: " if "track_ids" in fields and i >= 0 else "" for i in ids]
        texts = [f"{tag}{score:.2f}" for tag, score in zip(tags, scores, strict=True)]
        _draw_labels(canvas, corners, texts, colors)
    return canvas


def _boxes_around(keypoints: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The boxes (n, 4) around the keypoints (n, K, 3) that are not left out, inverted without any."""
    low, high = (np.where(np.isnan(marks[..., :1]), limit, keypoints[..., :2]) for limit in (_FAR, -_FAR))
    return np.concatenate([low.min(axis=1), high.max(axis=1)], axis=1)


def _marks(keypoints: np.ndarray, threshold: float, confidence: str, ground_truth: bool) -> np.ndarray:
    """Opacity, relative size, at most 1 and NaN if left out, and hollowness of keypoints (n, K, 3): (n, K, 3)."""
    third = keypoints[..., 2]
    hidden = (third == 1) & ground_truth
    if ground_truth:
        third, threshold, confidence = np.select([third == 2, hidden], [1.0, 0.4], -1.0), 0.0, "both"
    shown = (third >= threshold) & np.isfinite(keypoints).all(axis=-1)
    strength = np.where(shown, (third - threshold) / max(1.0 - threshold, 1e-6), np.nan).clip(max=1)
    constant = 1 + 0 * strength
    opacity = 0.4 + 0.6 * (strength if confidence in ("opacity", "both") else constant)
    size = 0.6 + 0.4 * (strength if confidence in ("size", "both") else constant)
    return np.stack([opacity, size, hidden], axis=-1)


def _draw_person(
    canvas: np.ndarray,
    keypoints: np.ndarray,
    half_axes: np.ndarray | None,
    marks: np.ndarray,
    half_width: float,
    skeleton: Skeleton,
    colors: dict[str, _Color],
) -> None:
    """Draw limbs, then keypoints (K, 3) with `_marks` (K, 3), and ellipses, all in pixels of the canvas."""
    opacity, size, hollow = marks.T
    radius, casing = 1.7 * half_width * size, max(0.7, 0.35 * half_width)
    points = np.clip(keypoints[:, :2] - 0.5, -_FAR, _FAR)
    limbs = [(i, j, min(opacity[i], opacity[j])) for i, j in skeleton.limbs if np.isfinite(opacity[[i, j]]).all()]
    for i, j, strength in limbs:
        _fill_capsule(canvas, points[i], points[j], half_width + casing, CASING_COLOR, 0.5 * strength)
    for i, j, strength in limbs:
        _fill_capsule(canvas, points[i], points[j], half_width, colors[skeleton.limb_side(i, j)], strength)
    shown = np.flatnonzero(np.isfinite(opacity)).tolist()
    for i in shown:
        discs = [(radius[i] + casing, CASING_COLOR), (radius[i], colors[skeleton.sides[i]])]
        if hollow[i]:
            discs.append((0.6 * radius[i], CASING_COLOR))
        for extent, color in discs:
            _fill_capsule(canvas, points[i], points[i], extent, color, opacity[i])
    if half_axes is None:
        return
    for i in shown:
        # 16ths of a pixel; what is far outside would overflow
        (x, y), (a, b) = np.round(16 * np.clip([points[i], half_axes[i]], -_FAR, _FAR)).astype(int).tolist()
        for thickness, color in ((3, CASING_COLOR), (1, colors[skeleton.sides[i]])):
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


def _draw_labels(canvas: np.ndarray, corners: dict[int, list[int]], texts: list[str], colors: list[_Color]) -> None:
    """Write each person's text at a corner of its box, where no earlier label lies."""
    size = int(np.clip(0.022 * max(canvas.shape[:2]), 11, 40))
    taken: list[tuple[int, int]] = []
    for i, (x0, y0, x1, y1) in corners.items():
        width, height = label_size(texts[i], size)
        places = [(x, y) for y in (y0 - height, y0) for x in (x0, x1 - width)] + [(x0, y1), (x0, y1 - height)]
        limits = max(canvas.shape[1] - width, 0), max(canvas.shape[0] - height, 0)
        places = np.clip(places, 0, limits).tolist()
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


def overlay_attention(image_rgb: np.ndarray, attention: Any, boxes: Any) -> np.ndarray:
    """Overlay the attention maps of the parts of n persons on a copy of an image (H, W, 3) uint8 (Figure 5).

    attention: (n, M, h, w), not negative; each map is scaled to a maximum of 1, and where maps overlap the larger value
    counts. boxes: (n, 4) XYXY in pixels, over which the maps lie.
    """
    heat = np.zeros(image_rgb.shape[:2], np.float32)
    for maps, box in zip(as_array(attention).astype(np.float32), as_array(boxes), strict=True):
        strength = (maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)).max(axis=0)
        # the center of pixel i is at i + 0.5, and so is that of location j of the map
        scale = (box[2:] - box[:2]) / strength.shape[::-1]
        shift = box[:2] + 0.5 * scale - 0.5
        to_image = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
        np.maximum(heat, cv2.warpAffine(strength, to_image, heat.shape[::-1]), out=heat)
    colors = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_MAGMA)[:, :, ::-1]
    weight = 0.85 * np.minimum(1.3 * heat, 1)[..., None]
    return np.round((1 - weight) * image_rgb + weight * colors).astype(np.uint8)


def part_names(cfg: CfgNode, skeleton: Skeleton) -> list[str]:
    """Name each part of a config's model by its keypoints: 'left elbow, left wrist'."""
    config = cfg.MODEL.QUERYPOSE
    division = build_part_division(skeleton, config.PART_DIVISION, config.PART_GROUPS)
    return [", ".join(group).replace("_", " ") for group in part_groups(skeleton, division)]


def as_array(values: Any) -> np.ndarray:
    """Convert a tensor, a `Boxes`, a `Keypoints` or an array to a float64 array."""
    values = getattr(values, "tensor", values)
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, np.float64)
