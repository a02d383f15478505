"""Data sets and the way from an annotated image to the model's input."""

from querypose.data.builtin import register_all
from querypose.data.coco_keypoints import (
    annotation_file,
    check_datasets,
    check_keypoint_dataset,
    register_coco_keypoints,
    resolve_datasets,
    skeleton_of,
)
from querypose.data.mapper import PoseDatasetMapper

__all__ = [
    "PoseDatasetMapper",
    "annotation_file",
    "check_datasets",
    "check_keypoint_dataset",
    "register_all",
    "register_coco_keypoints",
    "resolve_datasets",
    "skeleton_of",
]
