"""Box AP and keypoint AP by COCO's rules, computed by faster-coco-eval or pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from querypose.evaluation.ground_truth import Entries, GroundTruth

COCO_METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR", "ARs", "ARm", "ARl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}
"""Names of the summary's numbers by task, in the order in which COCO's evaluation gives them."""


def coco_stats(ground_truth: GroundTruth, results: Entries, task: str, backend: str) -> Sequence[float]:
    """Return the numbers of `COCO_METRICS[task]`, between 0 and 1, -1 where there is no ground truth."""
    return run_coco_eval(ground_truth, results, task, backend).stats[: len(COCO_METRICS[task])]


def run_coco_eval(
    ground_truth: GroundTruth, results: Entries, kind: str, backend: str, images: Sequence[int] = ()
) -> Any:
    """Return faster-coco-eval's or pycocotools' evaluation, summarized.

    Args:
        kind: "bbox", "keypoints" or, of faster-coco-eval only, "keypoints_crowd".
        images: numbers, as of `GroundTruth.image_numbers`, of the images to evaluate; default all.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # its COCO loads empty results, too
    from pycocotools.cocoeval import COCOeval

    content, results = ground_truth.numbered(results)
    annotations = COCO(content)
    evaluator = COCOeval_faster if backend == "faster-coco-eval" else COCOeval
    evaluation = evaluator(annotations, annotations.loadRes(results), kind)
    evaluation.print_function = lambda *_: None
    evaluation.params.kpt_oks_sigmas = np.array(ground_truth.skeleton.sigmas)
    if images:
        evaluation.params.imgIds = list(images)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
