"""The parts' attention laid over an image, for all persons at once or part by part (Figure 5 of the paper)."""

from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances

from querypose.errors import UserError
from querypose.modeling.part_division import build_part_division, part_groups
from querypose.skeleton import Skeleton
from querypose.visualization.draw_poses import draw_poses
from querypose.visualization.poses import Poses, as_array


def overlay_attention(image_rgb: np.ndarray, attention: Any, boxes: Any, opacity: float = 0.85) -> np.ndarray:
    """Overlay the attention maps of the parts of n persons on a copy of an image (H, W, 3) uint8.

    attention: (n, M, h, w), not negative; each map is scaled to a maximum of 1, and where maps overlap the larger value
    counts. boxes: (n, 4) XYXY in pixels, over which the maps lie; a box without area is skipped. opacity: of the
    largest value, 0 to 1.
    """
    attention, boxes = as_array(attention).astype(np.float32), as_array(boxes)
    if attention.ndim != 4 or boxes.shape != (len(attention), 4):
        raise UserError(
            f"attention is (persons, parts, h, w) with a box for each person, not {attention.shape} and {boxes.shape}."
        )
    heat = np.zeros(image_rgb.shape[:2], np.float32)
    for maps, box in zip(attention, boxes, strict=True):
        size = box[2:] - box[:2]
        if not np.isfinite(box).all() or (size <= 0).any():
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


def person_panels(
    image_rgb: np.ndarray, instances: Instances, index: int, skeleton: Skeleton, *, height: int = 240
) -> list[np.ndarray]:
    """Crop one person and draw its pose, and on darkened crops the attention of each part.

    image_rgb: (H, W, 3) uint8. instances: of `PosePredictor.with_attention`, in pixels of the image.

    Returns M + 1 panels (height, w, 3) uint8.
    """
    box = as_array(instances.attention_boxes.tensor[index])
    # the crop is resized before anything is drawn, so that lines stay sharp
    size, margin = np.array(image_rgb.shape[1::-1]), 0.1 * (box[2:] - box[:2])
    low = np.clip(np.floor(box[:2] - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(box[2:] + margin), low + 1, size).astype(int)
    width = max(1, round(height * (high - low)[0] / (high - low)[1]))
    scale = np.array([width, height]) / (high - low)
    crop = image_rgb[low[1] : high[1], low[0] : high[0]]
    crop = cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC if scale[1] > 1 else cv2.INTER_AREA)

    keypoints = Poses.from_instances(instances[index : index + 1], skeleton.num_keypoints).keypoints.copy()
    keypoints[..., :2] = (keypoints[..., :2] - low) * scale
    pose = draw_poses(crop, Poses(keypoints), skeleton, keypoint_threshold=0.0, scale=1)
    box = ((box.reshape(2, 2) - low) * scale).reshape(1, 4)
    return [pose, *(overlay_attention(crop // 2, part[None, None], box) for part in instances.part_attention[index])]


def part_names(cfg: CfgNode, skeleton: Skeleton) -> list[str]:
    """Name each part of a config's model by its keypoints: 'left elbow, left wrist'."""
    config = cfg.MODEL.QUERYPOSE
    division = build_part_division(skeleton, config.PART_DIVISION, config.PART_GROUPS)
    return [", ".join(group).replace("_", " ") for group in part_groups(skeleton, division)]
