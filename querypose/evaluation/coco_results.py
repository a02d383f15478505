"""From COCO-format results and annotations to metrics by name, by COCO's or CrowdPose's rules.

CrowdPose takes 0.53 times the box's area as the person's, ignores persons without a label on the twelve joints from
shoulder to ankle, and has classes not of persons by size but of images by `crowdIndex`.
"""

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from detectron2.utils.logger import create_small_table

from querypose.data.coco_format import are_finite_numbers, flat, id_key, shown
from querypose.errors import UserError
from querypose.evaluation.ground_truth import Entries, GroundTruth, Source, load_ground_truth

logger = logging.getLogger(__name__)

TASKS = ("bbox", "keypoints")
BACKENDS = ("faster-coco-eval", "pycocotools", "crowdposetools")

COCO_METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR", "ARs", "ARm", "ARl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}
"""Names of the summary's numbers by task, in the order in which COCO's evaluation gives them."""

CROWDPOSE_METRICS: tuple[str, ...] = ("AP", "AP50", "AP75", "AR", "AR50", "AR75", "APE", "APM", "APH")
"""Table 6's names: E easy (crowdIndex < 0.2), M medium (0.2 to 0.8), H hard (0.8 and more)."""

Metrics = dict[str, dict[str, float]]


def evaluate_coco_results(
    ground_truth: Source | GroundTruth,
    results: Entries,
    sigmas: Sequence[float] | None = None,
    tasks: Sequence[str] = TASKS,
    backend: str = "faster-coco-eval",
    protocol: str | None = None,
) -> Metrics:
    """Evaluate COCO-format results against COCO-format annotations; see also `load_ground_truth`.

    results: dicts with `image_id`, `category_id`, `score` and, by task, `bbox` (x, y, width, height in pixels) and
    `keypoints` (3K numbers: x, y in pixels, confidence); may be empty. Size classes are by the box, or by the extent of
    the keypoints in results without boxes. The `BACKENDS` give the same numbers; the last one is for CrowdPose only.

    Returns by task `COCO_METRICS`, or `CROWDPOSE_METRICS`, in percent; NaN where there is no ground truth of the class.
    """
    truth = load_ground_truth(ground_truth, sigmas, protocol).require_persons()
    check_backend(backend, truth.protocol)
    return compute_metrics(truth, check_results(results, truth, tasks), tasks, backend)


def check_backend(backend: str, protocol: str) -> None:
    """Raise a `UserError` for a backend that cannot evaluate by the protocol."""
    valid = BACKENDS if protocol == "crowdpose" else BACKENDS[:2]
    if backend not in valid:
        raise UserError(f"the evaluation backend is {backend!r}; for {protocol} it must be one of {', '.join(valid)}")


def compute_metrics(truth: GroundTruth, results: Entries, tasks: Sequence[str], backend: str) -> Metrics:
    """Return the metrics of `evaluate_coco_results` for options and results that are known to be valid."""
    if not results:
        logger.warning("There is not a single detection to evaluate: every AP is 0.")
    metrics: Metrics = {}
    for task in tasks:
        if task == "keypoints" and truth.protocol == "crowdpose":
            names, stats = CROWDPOSE_METRICS, crowdpose_stats(truth, results, backend)
        else:  # CrowdPose's official tool evaluates boxes as COCO's does
            names, stats = COCO_METRICS[task], run_coco_eval(truth, results, task, backend).stats
        # -1 means that there is no ground truth, of small persons for example
        values = [100 * float(value) if value >= 0 else float("nan") for value in stats]
        metrics[task] = dict(zip(names, values, strict=False))
        logger.info("Evaluation of %s:\n%s", task, create_small_table(metrics[task]))
    return metrics


def check_results(results: Any, truth: GroundTruth, tasks: Sequence[str]) -> Entries:
    """Return COCO-format results with the file's own ids and flat keypoints; `UserError` for one that does not fit."""
    if not isinstance(results, list):
        raise UserError("the results are not a list; give COCO-format results, one object per detection")
    image_ids = {id_key(image["id"]): image["id"] for image in truth.content["images"]}
    lengths = {"bbox": 4, "keypoints": 3 * truth.skeleton.num_keypoints}
    checked = []
    for number, result in enumerate(results):
        title = f"entry {number} of the results"
        if not isinstance(result, dict):
            raise UserError(f"{title} is {shown(result)} instead of an object with image_id, category_id, score, ..")
        for key in ("image_id", "category_id", "score", *tasks):
            if key not in result:
                raise UserError(f"{title} has no {key!r}")
        image, category, score, box = map(result.get, ("image_id", "category_id", "score", "bbox"))
        if id_key(image) not in image_ids:
            raise UserError(f"{title} is of image {shown(image)}, which is not in the data set")
        if id_key(category) != id_key(truth.category_id):
            raise UserError(f"{title} has the category_id {shown(category)} instead of {truth.category_id}")
        values = {task: flat(result[task]) for task in tasks}
        for task, numbers in values.items():
            found = f"{len(numbers)} values" if isinstance(numbers, list) else shown(numbers)
            if found != f"{lengths[task]} values":
                raise UserError(f"{title} has in {task!r} {found} instead of {lengths[task]} numbers")
        if isinstance(box, list) and len(box) == 4:
            values["bbox"] = box
        if not all(map(are_finite_numbers, [[score], *values.values()])):
            raise UserError(f"{title} holds values that are not finite numbers")
        if "bbox" in values and min(values["bbox"][2:]) < 0:
            raise UserError(f"{title} has a box of negative size: {values['bbox']}")
        ids = {"image_id": image_ids[id_key(image)], "category_id": truth.category_id}
        checked.append({**ids, "score": score, **values})
    if not all("bbox" in entry for entry in checked):  # the tools look at the first result only
        for entry in checked:
            entry.pop("bbox", None)
    return checked


def run_coco_eval(truth: GroundTruth, results: Entries, kind: str, backend: str, images: Sequence[int] = ()) -> Any:
    """Return the summarized evaluation of all `images` or of those numbers; faster-coco-eval has "keypoints_crowd"."""
    from faster_coco_eval import COCO, COCOeval_faster  # its COCO loads empty results, too
    from pycocotools.cocoeval import COCOeval

    content, results = truth.numbered(results)
    annotations = COCO(content)
    evaluator = COCOeval_faster if backend == "faster-coco-eval" else COCOeval
    evaluation = evaluator(annotations, annotations.loadRes(results), kind)
    evaluation.print_function = lambda *_: None
    evaluation.params.kpt_oks_sigmas = np.array(truth.skeleton.sigmas)
    if images:
        evaluation.params.imgIds = list(images)
    return _summarized(evaluation)


def crowdpose_stats(truth: GroundTruth, results: Entries, backend: str) -> Sequence[float]:
    """Return the numbers of `CROWDPOSE_METRICS`, -1 where there is no ground truth; the last three are rounded."""
    if backend == "faster-coco-eval":
        return run_coco_eval(truth, results, "keypoints_crowd", backend).stats
    if backend == "crowdposetools" and results:  # it reads the first result to see of what kind they are
        return _official_crowdpose_stats(truth, results)
    ap, ap50, ap75, _, _, ar, ar50, ar75, *_ = run_coco_eval(truth, results, "keypoints", "pycocotools").stats
    numbers, parts = truth.image_numbers, []
    for low, high in ((-np.inf, 0.2), (0.2, 0.8), (0.8, np.inf)):
        images = [numbers[image["id"]] for image in truth.content["images"] if low <= image["crowdIndex"] < high]
        parts.append(run_coco_eval(truth, results, "keypoints", "pycocotools", images).stats[0] if images else -1.0)
    return [ap, ap50, ap75, ar, ar50, ar75, *np.round(parts, 4)]  # rounded as in the official tool


def _official_crowdpose_stats(truth: GroundTruth, results: Entries) -> Sequence[float]:
    """The same numbers by crowdposetools, which uses CrowdPose's own sigmas."""
    try:
        from crowdposetools.coco import COCO
        from crowdposetools.cocoeval import COCOeval
    except ImportError as error:
        advice = "install it from CrowdPose's repository, or use faster-coco-eval, which gives the same numbers"
        raise UserError(f"the evaluation backend crowdposetools cannot be imported ({error}); {advice}") from error

    linspace = np.linspace

    def old_linspace(start: float, stop: float, num: float, **options: Any) -> np.ndarray:
        return linspace(start, stop, int(num), **options)

    content, results = truth.numbered(results)
    # boxes among the results would not change a number, but the tool would read them
    poses = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    # the tool is written for NumPy before 1.24, and reads the images' crowdIndex from the file again
    old_numpy = mock.patch.multiple("numpy", create=True, float=float, linspace=old_linspace)
    with tempfile.TemporaryDirectory() as folder, old_numpy:
        truth_file, result_file = Path(folder) / "truth.json", Path(folder) / "results.json"
        truth_file.write_text(json.dumps(content))
        result_file.write_text(json.dumps(poses))
        with contextlib.redirect_stdout(io.StringIO()):
            annotations = COCO(str(truth_file))
            detections = annotations.loadRes(str(result_file))
        stats = list(_summarized(COCOeval(annotations, detections, "keypoints")).stats)
    # older versions leave the entries of COCO's two size classes empty
    return stats if len(stats) == len(CROWDPOSE_METRICS) else stats[:3] + stats[5:]


def _summarized(evaluation: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
