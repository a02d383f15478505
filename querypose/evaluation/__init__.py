"""Average precision of boxes and keypoints."""

from querypose.evaluation.coco_results import BACKENDS, TASKS, evaluate_coco_results
from querypose.evaluation.crowdpose import CROWDPOSE_METRICS
from querypose.evaluation.ground_truth import PROTOCOLS
from querypose.evaluation.keypoint_errors import KeypointErrors, keypoint_errors
from querypose.evaluation.pose_evaluator import PoseEvaluator
from querypose.evaluation.submission import write_submission

__all__ = [
    "BACKENDS",
    "CROWDPOSE_METRICS",
    "KeypointErrors",
    "PROTOCOLS",
    "TASKS",
    "PoseEvaluator",
    "evaluate_coco_results",
    "keypoint_errors",
    "write_submission",
]
