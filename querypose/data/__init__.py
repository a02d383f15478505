"""Data sets and the way from an annotated image to the model's input."""

from querypose.data.builtin import register_all
from querypose.data.coco_keypoints import check_datasets, register_coco_keypoints, resolve_dataset, skeleton_of
from querypose.data.mapper import PoseDatasetMapper, SkipUnreadable
from querypose.data.training_loader import TrainingLoader, training_records

__all__ = [
    "PoseDatasetMapper", "SkipUnreadable", "TrainingLoader", "check_datasets", "register_coco_keypoints",
    "resolve_dataset", "skeleton_of", "training_records",
]  # fmt: skip

register_all()
