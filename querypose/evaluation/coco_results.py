"""From COCO-format results and annotations to metrics by name, by COCO's or CrowdPose's rules."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from detectron2.utils.logger import create_small_table

from querypose.data.coco_format import are_finite_numbers, flat, id_key, shown
from querypose.errors import UserError
from querypose.evaluation.coco_backends import COCO_METRICS, coco_stats
from querypose.evaluation.crowdpose import CROWDPOSE_METRICS, crowdpose_stats
from querypose.evaluation.ground_truth import Entries, GroundTruth, load_ground_truth

logger = logging.getLogger(__name__)

TASKS = ("bbox", "keypoints")
BACKENDS = ("faster-coco-eval", "pycocotools", "crowdposetools")

Metrics = OrderedDict[str, dict[str, float]]


def evaluate_coco_results(
    ground_truth: str | os.PathLike[str] | dict[str, Any] | GroundTruth,
    results: Entries,
    sigmas: Sequence[float] | None = None,
    tasks: Sequence[str] = TASKS,
    backend: str = "faster-coco-eval",
    protocol: str | None = None,
) -> Metrics:
    """Evaluate COCO-format results against COCO-format annotations.

    Size classes of detections are by their box, or by the extent of their keypoints in results without boxes.

    Args:
        ground_truth, sigmas, protocol: as `source`, `sigmas` and `protocol` of `load_ground_truth`.
        results: list of dicts with `image_id`, `category_id`, `score` and, by task, `bbox` (x, y, width,
            height in pixels) and `keypoints` (3K numbers: x, y in pixels, confidence); may be empty.
        tasks: of "bbox" and "keypoints".
        backend: "faster-coco-eval" or "pycocotools", which give the same numbers; for CrowdPose also
            "crowdposetools".

    Returns:
        by task the metrics by name, in percent: `COCO_METRICS`, or for the keypoints of CrowdPose
        `CROWDPOSE_METRICS`. Without any detection they are 0; NaN where there is no ground truth of the size or
        of the crowd class.

    Raises:
        UserError: for results that do not fit the annotations.
    """
    truth = load_ground_truth(ground_truth, sigmas=sigmas, protocol=protocol).require_persons()
    check_options(tasks, backend, truth.protocol)
    return compute_metrics(truth, check_results(results, truth, tasks), tasks, backend)


def check_options(tasks: Sequence[str], backend: str, protocol: str) -> None:
    """Raise a `UserError` for unknown tasks, and for a backend that cannot evaluate by the protocol."""
    if not tasks or any(task not in TASKS for task in tasks):
        raise UserError(f"the tasks to evaluate are {tasks!r}; give one or both of {', '.join(TASKS)}")
    valid = BACKENDS if protocol == "crowdpose" else BACKENDS[:2]
    if backend not in valid:
        raise UserError(
            f"the evaluation backend is {backend!r}; by the rules of {protocol} it must be one of {', '.join(valid)}"
        )


def compute_metrics(ground_truth: GroundTruth, results: Entries, tasks: Sequence[str], backend: str) -> Metrics:
    """Return the metrics of `evaluate_coco_results` for options and results that are known to be valid."""
    if not results:
        logger.warning("There is not a single detection to evaluate: every AP is 0.")
    metrics: Metrics = OrderedDict()
    for task in tasks:
        if task == "keypoints" and ground_truth.protocol == "crowdpose":
            names, stats = CROWDPOSE_METRICS, crowdpose_stats(ground_truth, results, backend)
        else:  # CrowdPose's official tool evaluates boxes as COCO's does
            names, stats = COCO_METRICS[task], coco_stats(ground_truth, results, task, backend)
        # -1 means that there is no ground truth, of small persons for example
        values = [100 * float(value) if value >= 0 else float("nan") for value in stats]
        metrics[task] = dict(zip(names, values, strict=True))
        logger.info("Evaluation of %s:\n%s", task, create_small_table(metrics[task]))
    return metrics


def check_results(results: Any, ground_truth: GroundTruth, tasks: Sequence[str]) -> Entries:
    """Return COCO-format results with the image and category ids of a `GroundTruth` and flat keypoints.

    Raises:
        UserError: about the first entry that does not fit: of an unknown image, without the values of a task, ..
    """
    if not isinstance(results, list):
        raise UserError("the results are not a list; give COCO-format results, one object per detection")
    image_ids = {id_key(image["id"]): image["id"] for image in ground_truth.content["images"]}
    category_id = ground_truth.category_id
    lengths = {"bbox": 4, "keypoints": 3 * ground_truth.skeleton.num_keypoints}
    checked = []
    for number, result in enumerate(results):
        title = f"entry {number} of the results"
        if not isinstance(result, dict):
            raise UserError(f"{title} is {shown(result)} instead of an object with image_id, category_id, score, ..")
        for key in ("image_id", "category_id", "score", *tasks):
            if key not in result:
                raise UserError(f"{title} has no {key!r}")
        if id_key(result["image_id"]) not in image_ids:
            raise UserError(f"{title} is of image {shown(result['image_id'])}, which is not in the data set")
        if id_key(result["category_id"]) != id_key(category_id):
            raise UserError(f"{title} has the category_id {shown(result['category_id'])} instead of {category_id}")
        values = {task: flat(result[task]) for task in tasks}
        for task, numbers in values.items():
            if not isinstance(numbers, list) or len(numbers) != lengths[task]:
                found = f"{len(numbers)} values" if isinstance(numbers, list) else shown(numbers)
                raise UserError(f"{title} has in {task!r} {found} instead of {lengths[task]} numbers")
        box = result.get("bbox")
        if isinstance(box, list) and len(box) == 4:
            values["bbox"] = box
        if not all(map(are_finite_numbers, [[result["score"]], *values.values()])):
            raise UserError(f"{title} holds values that are not finite numbers")
        if "bbox" in values and min(values["bbox"][2:]) < 0:
            raise UserError(f"{title} has a box of negative size: {values['bbox']}")
        image_id = image_ids[id_key(result["image_id"])]
        checked.append({"image_id": image_id, "category_id": category_id, "score": result["score"], **values})
    if not all("bbox" in entry for entry in checked):  # the tools look at the first result only
        for entry in checked:
            entry.pop("bbox", None)
    return checked
