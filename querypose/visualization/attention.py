"""The parts' attention laid over an image (Figure 5 of the paper)."""

import cv2
import numpy as np
from detectron2.config import CfgNode
from numpy.typing import ArrayLike

from querypose.modeling.part_division import build_part_division, part_groups
from querypose.skeleton import Skeleton


def overlay_attention(
    image_rgb: np.ndarray, attention: ArrayLike, boxes: ArrayLike, opacity: float = 0.85
) -> np.ndarray:
    """Overlay the attention maps of the parts of n persons on a copy of an image (H, W, 3) uint8.

    attention: (n, M, h, w), not negative; each map is scaled to a maximum of 1, and where maps overlap the larger value
    counts. boxes: (n, 4) XYXY in pixels, over which the maps lie; a box without area is skipped. opacity: of the
    largest value, 0 to 1.
    """
    heat = np.zeros(image_rgb.shape[:2], np.float32)
    for maps, box in zip(np.asarray(attention, np.float32), np.asarray(boxes, np.float64), strict=True):
        size = box[2:] - box[:2]
        if not (size > 0).all():
            continue
        strength = (maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)).max(axis=0)
        # the center of pixel i is at i + 0.5, and so is that of location j of the map
        scale = size / strength.shape[::-1]
        shift = box[:2] + 0.5 * scale - 0.5
        to_image = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
        np.maximum(heat, cv2.warpAffine(strength, to_image, heat.shape[::-1]), out=heat)
    colors = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_MAGMA)[:, :, ::-1]
    weight = opacity * np.minimum(1.3 * heat, 1)[..., None]
    return np.round((1 - weight) * image_rgb + weight * colors).astype(np.uint8)


def part_names(cfg: CfgNode, skeleton: Skeleton) -> list[str]:
    """Name each part of a config's model by its keypoints: 'left elbow, left wrist'."""
    config = cfg.MODEL.QUERYPOSE
    division = build_part_division(skeleton, config.PART_DIVISION, config.PART_GROUPS)
    return [", ".join(group).replace("_", " ") for group in part_groups(skeleton, division)]
