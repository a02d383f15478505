"""Average precision of boxes and keypoints."""

from querypose.evaluation.pose_evaluator import BACKENDS, PoseEvaluator, evaluate_coco_results

__all__ = ["BACKENDS", "PoseEvaluator", "evaluate_coco_results"]
