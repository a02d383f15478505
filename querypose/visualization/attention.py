"""Pictures of the parts' attention over a person, as the paper's Figure 5 shows them."""

import cv2
import numpy as np

from querypose.errors import UserError
from querypose.skeleton import split_side
from querypose.visualization.draw_poses import Poses, draw_poses

# from no attention (red, as the figure's background) over yellow to the place with the most
_RAMP = np.array([(150, 0, 0), (235, 30, 0), (255, 150, 0), (255, 235, 60), (255, 255, 235)], dtype=np.float32)
# from little to the most, where poses lie on top: a hue that neither sides nor photographs have
_GLOW = np.array([(90, 0, 90), (190, 20, 170), (255, 120, 230), (255, 235, 255)], dtype=np.float32)


def overlay_attention(image_rgb, attention, box, opacity=0.6):
    """Lay an attention map over its box in a copy of an image.

    image_rgb: (H, W, 3) uint8. attention: (h, w), not negative; its largest value gets the brightest colour.
    box: x0, y0, x1, y1 in pixels of the image, over which the map lies; it may reach beyond the image.
    opacity: of the colours, 0 to 1.

    Returns (H, W, 3) uint8. Raises `UserError` for a box without area or a map of another shape.
    """
    attention = _as_array(attention)
    box = _as_array(box)
    if attention.ndim != 2:
        raise UserError(f"an attention map must have shape (h, w), not {attention.shape}.")
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise UserError(f"an attention map needs a box x0, y0, x1, y1 with an area, not {box.tolist()}.")
    picture = np.array(image_rgb)
    rows, columns, values = _over_box(attention / max(attention.max(), 1e-12), box, picture.shape[:2])
    region = picture[rows, columns]
    region[:] = np.round((1 - opacity) * region + opacity * _colours(values)).astype(np.uint8)
    return picture


def glow_attention(image_rgb, attention, boxes, opacity=0.85):
    """Let a copy of an image glow where the parts of its persons look, and leave the rest: a ground for poses.

    image_rgb: (H, W, 3) uint8. attention: (n, M, h, w), not negative; the place with the most of each map glows
    fully, and where maps overlap the stronger one counts. boxes: (n, 4) as of `overlay_attention`; in one without an
    area nothing glows. opacity: of the strongest glow, 0 to 1.

    Returns (H, W, 3) uint8. Raises `UserError` for maps of another shape or another number of boxes.
    """
    attention, boxes = _as_array(attention), _as_array(boxes)
    if attention.ndim != 4 or boxes.shape != (len(attention), 4):
        raise UserError(
            "attention to draw must have shape (persons, parts, h, w) with a box for each person, not "
            f"{attention.shape} with boxes {boxes.shape}."
        )
    picture = np.asarray(image_rgb)
    glow = np.zeros(picture.shape[:2], np.float32)
    for maps, box in zip(attention, boxes, strict=True):
        if not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
            continue
        strength = maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)
        rows, columns, values = _over_box(strength.max(axis=0), box, picture.shape[:2])
        glow[rows, columns] = np.maximum(glow[rows, columns], values)
    # the strongest places are more than a point
    weight = np.minimum(1.3 * glow, 1.0)[..., None] * opacity
    return np.round((1 - weight) * picture + weight * _colours(glow, _GLOW)).astype(np.uint8)


def person_panels(image_rgb, instances, index, skeleton, *, height=240, margin=0.1):
    """The pictures of one person: its pose, then the attention of each part.

    image_rgb: (H, W, 3) uint8. instances: of `PosePredictor.with_attention`, in pixels of the image. index: which
    person. height: of the pictures, in pixels. margin: how much of the box's size is shown around it.

    Returns M + 1 pictures (height, w, 3) uint8.
    """
    box = _as_array(instances.attention_boxes.tensor[index])
    # enlarged before anything is drawn, so that lines and colours are sharp
    crop, scale, origin = _crop(image_rgb, box, margin, height)
    poses = Poses.from_instances(instances[index : index + 1], skeleton.num_keypoints)
    keypoints = poses.keypoints.copy()
    keypoints[..., :2] = (keypoints[..., :2] - origin) * scale
    shown = {"pred_keypoints": keypoints}
    pose = draw_poses(crop, shown, skeleton, keypoint_threshold=0.0, show_boxes=False, scale=1)
    box = (box.reshape(2, 2) - origin).ravel() * np.tile(scale, 2)
    return [pose, *(overlay_attention(crop, part, box) for part in _as_array(instances.part_attention[index]))]


def part_names(skeleton, part_of_keypoint):
    """A short name of each part by its keypoints: 'nose, eyes, ears', 'shoulders', 'left elbow, wrist'."""
    names = []
    for part in range(max(part_of_keypoint) + 1):
        sides = {}
        for name, index in zip(skeleton.keypoint_names, part_of_keypoint, strict=True):
            if index == part:
                side, base = split_side(name)
                sides.setdefault(base.replace("_", " "), []).append(side)
        words, said = [], "middle"
        for base, found in sides.items():
            if len(found) > 1:
                words.append(base + "s")
                continue
            words.append(base if found[0] in (said, "middle") else f"{found[0]} {base}")
            said = found[0]
        names.append(", ".join(words))
    return names


def _over_box(values, box, image_size):
    """A map (h, w) spread over its box: rows and columns (slices) of the pixels in the image, and their values."""
    height, width = image_size
    (low_x, low_y), (high_x, high_y) = (
        np.clip(np.round(corner), 0, (width, height)).astype(int) for corner in (box[:2], box[2:])
    )
    if high_x <= low_x or high_y <= low_y:
        return slice(0), slice(0), np.zeros((0, 0), np.float32)
    # pixel i has its centre at i + 0.5, and so has place j of the map
    scale = np.array(values.shape[::-1]) / (box[2:] - box[:2])
    shift = (np.array((low_x, low_y)) + 0.5 - box[:2]) * scale - 0.5
    to_map = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    values = cv2.warpAffine(
        values.astype(np.float32),
        to_map,
        (int(high_x - low_x), int(high_y - low_y)),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return slice(low_y, high_y), slice(low_x, high_x), values


def _crop(image, box, margin, height):
    """The box with a margin, as far as it lies in the image, scaled to `height`; its scale (x, y) and origin."""
    size = np.array(image.shape[1::-1])
    room = margin * (box[2:] - box[:2])
    low = np.clip(np.floor(box[:2] - room), 0, size - 1).astype(int)
    high = np.clip(np.ceil(box[2:] + room), low + 1, size).astype(int)
    crop = image[low[1] : high[1], low[0] : high[0]]
    width = max(1, round(crop.shape[1] * height / crop.shape[0]))
    scale = np.array([width / crop.shape[1], height / crop.shape[0]])
    method = cv2.INTER_CUBIC if scale[1] > 1 else cv2.INTER_AREA
    return cv2.resize(crop, (width, height), interpolation=method), scale, low


def _colours(values, ramp=_RAMP):
    """values (h, w) in 0 .. 1 -> (h, w, 3) RGB of a ramp (n, 3)."""
    place = np.clip(values, 0, 1) * (len(ramp) - 1)
    return np.stack([np.interp(place, np.arange(len(ramp)), ramp[:, channel]) for channel in range(3)], axis=2)


def _as_array(values):
    """Turn a tensor or an array into a float64 array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
