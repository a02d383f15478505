"""Keypoint AP by CrowdPose's rules: no size classes, but easy, medium and hard images by their `crowdIndex`.

OKS takes 0.53 times the box's area as the person's; persons with `iscrowd`, or without a label on the twelve joints
from shoulder to ankle, are ignored; the 20 best poses of an image count.
"""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np

from querypose.errors import UserError
from querypose.evaluation.coco_backends import run_faster_coco_eval, run_pycocotools

CROWDPOSE_METRICS = ("AP", "AP50", "AP75", "AR", "AR50", "AR75", "APE", "APM", "APH")
"""Table 6's names: E easy (crowdIndex < 0.2), M medium (0.2 to 0.8), H hard (0.8 and more)."""

_EASY_BELOW, _HARD_FROM = 0.2, 0.8


def faster_coco_eval(ground_truth, results):
    """Return the numbers of `CROWDPOSE_METRICS`, between 0 and 1, -1 where there is no ground truth.

    As in the official tool, the last three are rounded to four decimals.

    Args:
        ground_truth: `GroundTruth` of protocol "crowdpose".
        results: list of COCO-format results with `keypoints`; none need be there.
    """
    sigmas = list(ground_truth.skeleton.sigmas)
    evaluation = run_faster_coco_eval(ground_truth, results, "keypoints_crowd", kpt_oks_sigmas=sigmas, use_area=False)
    return evaluation.stats


def pycocotools(ground_truth, results):
    """The same numbers by pycocotools, whose rules are COCO's, on areas and sets of images that are CrowdPose's."""
    evaluation = run_pycocotools(ground_truth, results, "keypoints").eval
    precision, recall = evaluation["precision"][..., 0, 0, 0], evaluation["recall"][..., 0, 0, 0]
    # thresholds 0.50, 0.55, .. 0.95
    whole = [precision.mean(), precision[0].mean(), precision[5].mean(), recall.mean(), recall[0], recall[5]]
    classes = []
    for image_ids in split_by_crowd_index(ground_truth.content["images"]):
        part = run_pycocotools(ground_truth, results, "keypoints", image_ids).eval if image_ids else None
        classes.append(round(float(part["precision"][..., 0, 0, 0].mean()), 4) if part else -1)
    return whole + classes


def crowdposetools(ground_truth, results):
    """The same numbers by the official tool, where it is installed; it knows CrowdPose's own sigmas alone.

    Raises:
        UserError: if it is not installed.
    """
    try:
        from crowdposetools.coco import COCO
        from crowdposetools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError(
            f"the evaluation backend crowdposetools cannot be imported ({error}); install it from the CrowdPose "
            "repository (crowdpose-api/PythonAPI), or use faster-coco-eval, which gives the same numbers"
        ) from error
    if not results:
        return pycocotools(ground_truth, results)  # the tool reads the first result to see of what kind it is

    # boxes among the results would not change a number, but the tool would read them
    poses = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    with tempfile.TemporaryDirectory() as folder, _numpy_as_of_old(), contextlib.redirect_stdout(io.StringIO()):
        # the tool reads the images' crowdIndex from the file again
        truth_file, result_file = Path(folder) / "truth.json", Path(folder) / "results.json"
        truth_file.write_text(json.dumps(ground_truth.content))
        result_file.write_text(json.dumps(poses))
        annotations = COCO(str(truth_file))
        evaluation = COCOeval(annotations, annotations.loadRes(str(result_file)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = list(evaluation.stats)
    # older versions leave the places of COCO's two size classes empty
    return stats if len(stats) == len(CROWDPOSE_METRICS) else stats[:3] + stats[5:]


def split_by_crowd_index(images):
    """Return the ids of the easy, the medium and the hard images: three lists."""
    easy, medium, hard = [], [], []
    for image in images:
        index = image["crowdIndex"]
        (easy if index < _EASY_BELOW else medium if index < _HARD_FROM else hard).append(image["id"])
    return easy, medium, hard


@contextlib.contextmanager
def _numpy_as_of_old():
    """The official tool is written for numpy before 1.24: give it `np.float`, and whole numbers in `linspace`."""
    linspace = np.linspace
    missing = not hasattr(np, "float")
    np.linspace = lambda start, stop, num=50, **options: linspace(start, stop, int(num), **options)
    if missing:
        np.float = float
    try:
        yield
    finally:
        np.linspace = linspace
        if missing:
            del np.float
