"""Box AP and keypoint AP by COCO's rules, computed by faster-coco-eval or pycocotools."""

import contextlib
import io

import numpy as np

COCO_METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR", "ARs", "ARm", "ARl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}
"""Names of the summary's numbers by task, in the order in which COCO's evaluation gives them."""


def faster_coco_eval(ground_truth, results, task):
    """Return the numbers of `COCO_METRICS[task]`, between 0 and 1, -1 where there is no ground truth.

    Args:
        ground_truth: `GroundTruth`.
        results: list of COCO-format results; none need be there.
        task: "bbox" or "keypoints".
    """
    extra = {"kpt_oks_sigmas": list(ground_truth.skeleton.sigmas)} if task == "keypoints" else {}
    evaluation = run_faster_coco_eval(ground_truth, results, task, **extra)
    return evaluation.stats[: len(COCO_METRICS[task])]


def pycocotools(ground_truth, results, task):
    """The same numbers by the original tool."""
    evaluation = run_pycocotools(ground_truth, results, task)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return evaluation.stats


def run_faster_coco_eval(ground_truth, results, kind, **options):
    """Return faster-coco-eval's evaluation of a kind ("bbox", "keypoints", "keypoints_crowd"), summarised."""
    from faster_coco_eval import COCO, COCOeval_faster

    annotations = COCO(ground_truth.copy_entries())
    detections = annotations.loadRes([dict(result) for result in results])
    evaluation = COCOeval_faster(annotations, detections, kind, print_function=lambda *_: None, **options)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def run_pycocotools(ground_truth, results, task, image_ids=None):
    """Return pycocotools' evaluation, accumulated, of all images or of those with `image_ids`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO()
        annotations.dataset = ground_truth.copy_entries()
        annotations.createIndex()
        if results:
            detections = annotations.loadRes([dict(result) for result in results])
        else:
            # loadRes looks into the first result to see of what kind they are.
            detections = COCO()
            detections.dataset = {**annotations.dataset, "annotations": []}
            detections.createIndex()
        evaluation = COCOeval(annotations, detections, task)
        if task == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(ground_truth.skeleton.sigmas)
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation
