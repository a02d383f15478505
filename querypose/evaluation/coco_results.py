"""From COCO-format results and annotations to metrics by name, by COCO's or CrowdPose's rules."""

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.utils.logger import create_small_table

from querypose.data.annotations import are_finite_numbers, flat, id_key
from querypose.errors import UserError
from querypose.evaluation.ground_truth import Entries, GroundTruth, Source, load_ground_truth

logger = logging.getLogger(__name__)

TASKS = ("bbox", "keypoints")
BACKENDS = ("faster-coco-eval", "pycocotools")

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
    the keypoints in results without boxes. The `BACKENDS` give the same numbers.

    Returns by task `COCO_METRICS`, or `CROWDPOSE_METRICS`, in percent; NaN where there is no ground truth of the class.
    """
    truth = load_ground_truth(ground_truth, sigmas, protocol)
    return compute_metrics(truth, check_results(results, truth, tasks), tasks, backend)


def compute_metrics(truth: GroundTruth, results: Entries, tasks: Sequence[str], backend: str) -> Metrics:
    """Return the metrics of `evaluate_coco_results` for options and results that are known to be valid."""
    if backend not in BACKENDS:
        raise UserError(f"the evaluation backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
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
    """Return COCO-format results with the file's own ids and flat keypoints, and with boxes if all have one.

    `UserError` for one that does not fit, or a data set without persons.
    """
    if not truth.content["annotations"]:
        raise UserError("the data set has no annotations of persons, so no AP can be computed; give one that has")
    if not isinstance(results, list):
        raise UserError("the results are not a list; give COCO-format results, one object per detection")
    image_ids = {id_key(image["id"]): image["id"] for image in truth.content["images"]}
    lengths = {"bbox": 4, "keypoints": 3 * truth.skeleton.num_keypoints}
    has_boxes = all(isinstance(result, dict) and result.get("bbox") is not None for result in results)
    fields = sorted({*tasks, "bbox"} if has_boxes else tasks)
    checked = []
    for number, result in enumerate(results):
        title = f"entry {number} of the results"
        if not isinstance(result, dict):
            raise UserError(f"{title} is {result!r:.80} instead of an object with image_id, category_id, score, ..")
        for key in ("image_id", "category_id", "score", *tasks):
            if key not in result:
                raise UserError(f"{title} has no {key!r}")
        image, category, score = map(result.get, ("image_id", "category_id", "score"))
        if id_key(image) not in image_ids:
            raise UserError(f"{title} is of image {image!r:.80}, which is not in the data set")
        if id_key(category) != id_key(truth.category_id):
            raise UserError(f"{title} has the category_id {category!r:.80} instead of {truth.category_id}")
        values = {field: flat(result[field]) for field in fields}
        for field, numbers in values.items():
            found = f"{len(numbers)} values" if isinstance(numbers, list) else f"{numbers!r:.80}"
            if found != f"{lengths[field]} values":
                raise UserError(f"{title} has in {field!r} {found} instead of {lengths[field]} numbers")
        if not all(map(are_finite_numbers, [[score], *values.values()])):
            raise UserError(f"{title} holds values that are not finite numbers")
        if "bbox" in values and min(values["bbox"][2:]) < 0:
            raise UserError(f"{title} has a box of negative size: {values['bbox']}")
        ids = {"image_id": image_ids[id_key(image)], "category_id": truth.category_id}
        checked.append({**ids, "score": score, **values})
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
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def crowdpose_stats(truth: GroundTruth, results: Entries, backend: str) -> Sequence[float]:
    """Return the numbers of `CROWDPOSE_METRICS`, -1 where there is no ground truth; the last three are rounded."""
    if backend == "faster-coco-eval":
        return run_coco_eval(truth, results, "keypoints_crowd", backend).stats
    ap, ap50, ap75, _, _, ar, ar50, ar75, *_ = run_coco_eval(truth, results, "keypoints", backend).stats
    numbers, parts = truth.image_numbers, []
    for low, high in ((-np.inf, 0.2), (0.2, 0.8), (0.8, np.inf)):
        images = [numbers[image["id"]] for image in truth.content["images"] if low <= image["crowdIndex"] < high]
        parts.append(run_coco_eval(truth, results, "keypoints", backend, images).stats[0] if images else -1.0)
    return [ap, ap50, ap75, ar, ar50, ar75, *np.round(parts, 4)]  # rounded as in the official tool
