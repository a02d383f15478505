"""Persons to draw, from predictions, annotations or results."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from querypose.errors import UserError


@dataclass(frozen=True)
class Poses:
    """Persons to draw: keypoints (n, K, 3), boxes (n, 4) XYXY, scores (n,) and keypoints' sigmas (n, K, 2), in pixels.

    A keypoint has a confidence in [0, 1], or if `ground_truth` COCO's visibility: 0 not labeled, 1 hidden, 2 visible.
    """

    keypoints: np.ndarray
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    ground_truth: bool = False
    track_ids: np.ndarray | None = None
    sigmas: np.ndarray | None = None

    @classmethod
    def from_instances(cls, instances: Any, num_keypoints: int) -> "Poses":
        """Convert `Instances`, or a mapping, with `pred_keypoints`, `pred_boxes`, `scores` and `pred_keypoint_sigmas`,
        else `gt_keypoints` and `gt_boxes`; `Poses` are returned as they are. Raises `UserError` without
        `num_keypoints` keypoints per person.
        """
        if isinstance(instances, cls):
            poses = instances
        else:
            fields = instances if isinstance(instances, Mapping) else instances.get_fields()
            prefix = "pred" if "pred_keypoints" in fields else "gt"
            if f"{prefix}_keypoints" not in fields:
                raise UserError(f"nothing to draw: neither pred_keypoints nor gt_keypoints are among {sorted(fields)}.")
            keypoints = as_array(fields[f"{prefix}_keypoints"])
            boxes, scores = fields.get(f"{prefix}_boxes"), fields.get("scores")
            sigmas = fields.get(f"{prefix}_keypoint_sigmas")
            poses = cls(
                keypoints if keypoints.size else keypoints.reshape(0, num_keypoints, 3),
                None if boxes is None else as_array(boxes).reshape(-1, 4),
                None if scores is None else as_array(scores),
                ground_truth=prefix == "gt",
                track_ids=fields["track_ids"].numpy() if "track_ids" in fields else None,
                sigmas=None if sigmas is None else as_array(sigmas).reshape(-1, num_keypoints, 2),
            )
        if poses.keypoints.shape[1] != num_keypoints:
            raise UserError(
                f"persons to draw have {poses.keypoints.shape[1]} keypoints but the skeleton has {num_keypoints}."
            )
        return poses

    @classmethod
    def from_coco(
        cls, entries: Iterable[Mapping[str, Any]], num_keypoints: int, *, ground_truth: bool, offset: float = 0.5
    ) -> "Poses":
        """Convert the COCO annotations or results of one image; boxes are drawn if every entry has one.

        offset: added to keypoints; 0.5 as Detectron2 does, since COCO counts from the pixels' corners.
        """
        entries = list(entries)
        unlabeled = [0.0] * (3 * num_keypoints)
        keypoints = as_array([entry.get("keypoints", unlabeled) for entry in entries])
        keypoints = keypoints.reshape(-1, num_keypoints, 3) + (offset, offset, 0)
        boxes = None
        if all("bbox" in entry for entry in entries):
            boxes = as_array([entry["bbox"] for entry in entries]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
        scores = None if ground_truth else as_array([entry["score"] for entry in entries])
        return cls(keypoints, boxes, scores, ground_truth)

    @classmethod
    def from_dataset_record(cls, record: Mapping[str, Any], num_keypoints: int) -> "Poses":
        """Convert the ground truth of a Detectron2 data set record, whose keypoints have the half pixel already."""
        persons = [person for person in record.get("annotations", ()) if not person.get("iscrowd", 0)]
        return cls.from_coco(persons, num_keypoints, ground_truth=True, offset=0.0)


def as_array(values: Any) -> np.ndarray:
    """Convert a tensor, a `Boxes`, a `Keypoints` or an array to a float64 array."""
    values = getattr(values, "tensor", values)
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=np.float64)
