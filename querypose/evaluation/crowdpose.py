"""Keypoint AP by CrowdPose's rules: no size classes, but easy, medium and hard images by their `crowdIndex`.

OKS takes 0.53 times the box's area as the person's; persons with `iscrowd`, or without a label on the twelve joints
from shoulder to ankle, are ignored; the 20 best poses of an image count.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from querypose.errors import UserError
from querypose.evaluation.coco_backends import run_faster_coco_eval, run_pycocotools
from querypose.evaluation.ground_truth import Entries, GroundTruth

CROWDPOSE_METRICS = ("AP", "AP50", "AP75", "AR", "AR50", "AR75", "APE", "APM", "APH")
"""Table 6's names: E easy (crowdIndex < 0.2), M medium (0.2 to 0.8), H hard (0.8 and more)."""

_EASY_BELOW, _HARD_FROM = 0.2, 0.8


def faster_coco_eval(ground_truth: GroundTruth, results: Entries) -> Iterable[float]:
    """Return the numbers of `CROWDPOSE_METRICS`, between 0 and 1, -1 where there is no ground truth.

    As in the official tool, the last three are rounded to four decimals.

    Args:
        ground_truth: `GroundTruth` of protocol "crowdpose".
        results: list of COCO-format results with `keypoints`; may be empty.
    """
    sigmas = list(ground_truth.skeleton.sigmas)
    evaluation = run_faster_coco_eval(ground_truth, results, "keypoints_crowd", kpt_oks_sigmas=sigmas, use_area=False)
    return list(evaluation.stats)


def pycocotools(ground_truth: GroundTruth, results: Entries) -> Iterable[float]:
    """Return the same numbers by pycocotools, with CrowdPose's areas and sets of images."""
    evaluation = run_pycocotools(ground_truth, results, "keypoints").eval
    precision, recall = evaluation["precision"][..., 0, 0, 0], evaluation["recall"][..., 0, 0, 0]
    # thresholds 0.50, 0.55, .. 0.95
    stats = [precision.mean(), precision[0].mean(), precision[5].mean(), recall.mean(), recall[0], recall[5]]
    numbers = ground_truth.image_numbers
    images = [(image["crowdIndex"], numbers[image["id"]]) for image in ground_truth.content["images"]]
    easy = [number for index, number in images if index < _EASY_BELOW]
    hard = [number for index, number in images if index >= _HARD_FROM]
    medium = [number for index, number in images if _EASY_BELOW <= index < _HARD_FROM]
    for chosen in (easy, medium, hard):
        value = -1.0
        if chosen:
            part = run_pycocotools(ground_truth, results, "keypoints", chosen).eval
            value = round(float(part["precision"][..., 0, 0, 0].mean()), 4)
        stats.append(value)
    return stats


def crowdposetools(ground_truth: GroundTruth, results: Entries) -> Iterable[float]:
    """Return the same numbers by the official tool, if it is installed; it uses CrowdPose's own sigmas.

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

    content, results = ground_truth.numbered(results)
    # boxes among the results would not change a number, but the tool would read them
    poses = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    with tempfile.TemporaryDirectory() as folder, _old_numpy(), contextlib.redirect_stdout(io.StringIO()):
        # the tool reads the images' crowdIndex from the file again
        truth_file, result_file = Path(folder) / "truth.json", Path(folder) / "results.json"
        truth_file.write_text(json.dumps(content))
        result_file.write_text(json.dumps(poses))
        annotations = COCO(str(truth_file))
        evaluation = COCOeval(annotations, annotations.loadRes(str(result_file)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = list(evaluation.stats)
    # older versions leave the entries of COCO's two size classes empty
    return stats if len(stats) == len(CROWDPOSE_METRICS) else stats[:3] + stats[5:]


@contextlib.contextmanager
def _old_numpy() -> Iterator[None]:
    """Run the official tool, written for NumPy before 1.24: it needs `np.float`, and whole numbers in `linspace`."""
    linspace, missing = np.linspace, not hasattr(np, "float")
    np.linspace = lambda start, stop, num=50, **options: linspace(start, stop, int(num), **options)  # type: ignore
    if missing:
        np.float = float  # type: ignore
    try:
        yield
    finally:
        np.linspace = linspace
        if missing:
            del np.float  # type: ignore
