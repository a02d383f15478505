"""Box AP and keypoint AP by COCO's rules, computed by faster-coco-eval or pycocotools."""

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np

from querypose.evaluation.ground_truth import Entries, GroundTruth

COCO_METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR", "ARs", "ARm", "ARl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}
"""Names of the summary's numbers by task, in the order in which COCO's evaluation gives them."""


def faster_coco_eval(ground_truth: GroundTruth, results: Entries, task: str) -> Iterable[float]:
    """Return the numbers of `COCO_METRICS[task]`, between 0 and 1, -1 where there is no ground truth.

    Args:
        ground_truth: `GroundTruth`.
        results: list of COCO-format results; may be empty.
        task: "bbox" or "keypoints".
    """
    extra = {"kpt_oks_sigmas": list(ground_truth.skeleton.sigmas)} if task == "keypoints" else {}
    stats = run_faster_coco_eval(ground_truth, results, task, **extra).stats
    return list(stats[: len(COCO_METRICS[task])])


def pycocotools(ground_truth: GroundTruth, results: Entries, task: str) -> Iterable[float]:
    """Return the same numbers, computed by the original tool."""
    evaluation = run_pycocotools(ground_truth, results, task)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return list(evaluation.stats)


def run_faster_coco_eval(ground_truth: GroundTruth, results: Entries, kind: str, **options: Any) -> Any:
    """Return faster-coco-eval's evaluation of a kind ("bbox", "keypoints", "keypoints_crowd"), summarized."""
    from faster_coco_eval import COCO, COCOeval_faster

    content, results = ground_truth.numbered(results)
    annotations = COCO(content)
    detections = annotations.loadRes(results)
    evaluation = COCOeval_faster(annotations, detections, kind, print_function=lambda *_: None, **options)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def run_pycocotools(
    ground_truth: GroundTruth, results: Entries, task: str, image_numbers: Iterable[int] | None = None
) -> Any:
    """Return pycocotools' evaluation, accumulated, of all images or of those with these numbers (from 1)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content, results = ground_truth.numbered(results)
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO()
        annotations.dataset = content
        annotations.createIndex()
        if results:
            detections = annotations.loadRes(results)
        else:
            # loadRes looks into the first result to see of what kind they are.
            detections = COCO()
            detections.dataset = {**content, "annotations": []}
            detections.createIndex()
        evaluation = COCOeval(annotations, detections, task)
        if task == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(ground_truth.skeleton.sigmas)
        if image_numbers is not None:
            evaluation.params.imgIds = list(image_numbers)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation
