"""Keypoint AP by CrowdPose's rules: no size classes, but easy, medium and hard images by their `crowdIndex`.

OKS takes 0.53 times the box's area as the person's; persons with `iscrowd`, or without a label on the twelve joints
from shoulder to ankle, are ignored; the 20 best poses of an image count.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from querypose.errors import UserError
from querypose.evaluation.coco_backends import run_coco_eval
from querypose.evaluation.ground_truth import Entries, GroundTruth

CROWDPOSE_METRICS: tuple[str, ...] = ("AP", "AP50", "AP75", "AR", "AR50", "AR75", "APE", "APM", "APH")
"""Table 6's names: E easy (crowdIndex < 0.2), M medium (0.2 to 0.8), H hard (0.8 and more)."""


def crowdpose_stats(ground_truth: GroundTruth, results: Entries, backend: str) -> Sequence[float]:
    """Return the numbers of `CROWDPOSE_METRICS`, between 0 and 1, -1 where there is no ground truth.

    The last three are rounded to four decimals, as in the official tool.
    """
    if backend == "faster-coco-eval":
        return run_coco_eval(ground_truth, results, "keypoints_crowd", backend).stats
    if backend == "crowdposetools" and results:  # it reads the first result to see of what kind they are
        return _official_tool(ground_truth, results)
    ap, ap50, ap75, _, _, ar, ar50, ar75, *_ = run_coco_eval(ground_truth, results, "keypoints", "pycocotools").stats
    numbers = ground_truth.image_numbers
    by_class: tuple[list[int], list[int], list[int]] = ([], [], [])
    for image in ground_truth.content["images"]:
        by_class[np.digitize(image["crowdIndex"], (0.2, 0.8))].append(numbers[image["id"]])
    parts = [
        run_coco_eval(ground_truth, results, "keypoints", "pycocotools", images).stats[0] if images else -1.0
        for images in by_class
    ]
    return [ap, ap50, ap75, ar, ar50, ar75, *np.round(parts, 4)]


def _official_tool(ground_truth: GroundTruth, results: Entries) -> Sequence[float]:
    """The same numbers by crowdposetools, which uses CrowdPose's own sigmas."""
    try:
        from crowdposetools.coco import COCO
        from crowdposetools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError(
            f"the evaluation backend crowdposetools cannot be imported ({error}); install it from the CrowdPose "
            "repository (crowdpose-api/PythonAPI), or use faster-coco-eval, which gives the same numbers"
        ) from error
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
    linspace = np.linspace
    np.linspace = lambda start, stop, num=50, **options: linspace(start, stop, int(num), **options)  # type: ignore
    np.float = float  # type: ignore
    try:
        yield
    finally:
        np.linspace = linspace
        del np.float  # type: ignore
