"""Average precision of boxes and keypoints."""

from querypose.evaluation.coco_results import BACKENDS, CROWDPOSE_METRICS, TASKS, evaluate_coco_results
from querypose.evaluation.ground_truth import PROTOCOLS
from querypose.evaluation.matching import keypoint_errors
from querypose.evaluation.pose_evaluator import PoseEvaluator, write_submission

__all__ = [
    "BACKENDS", "CROWDPOSE_METRICS", "PROTOCOLS", "TASKS", "PoseEvaluator", "evaluate_coco_results", "keypoint_errors",
    "write_submission",
]  # fmt: skip
