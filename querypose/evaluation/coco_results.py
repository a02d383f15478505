"""From COCO-format results and annotations to metrics by name, by COCO's or CrowdPose's rules."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from detectron2.utils.logger import create_small_table

from querypose.data.coco_format import are_finite_numbers, flat, id_key, shown
from querypose.errors import UserError
from querypose.evaluation import coco_backends, crowdpose
from querypose.evaluation.ground_truth import Entries, GroundTruth, load_ground_truth

logger = logging.getLogger(__name__)

TASKS = ("bbox", "keypoints")

_COCO_FUNCTIONS = {
    "faster-coco-eval": coco_backends.faster_coco_eval,
    "pycocotools": coco_backends.pycocotools,
}
_CROWDPOSE_FUNCTIONS = {
    "faster-coco-eval": crowdpose.faster_coco_eval,
    "pycocotools": crowdpose.pycocotools,
    "crowdposetools": crowdpose.crowdposetools,
}
BACKENDS = tuple(_CROWDPOSE_FUNCTIONS)

Metrics = OrderedDict[str, dict[str, float]]


def evaluate_coco_results(
    ground_truth: str | os.PathLike[str] | dict[str, Any],
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
    truth = load_ground_truth(ground_truth, sigmas=sigmas, protocol=protocol)
    if not truth.content["annotations"]:
        raise UserError(
            "the annotation file has no annotations of persons, so no AP can be computed; evaluate against a file "
            "that has, or submit the results to the test set's server"
        )
    tasks = check_tasks(tasks)
    return compute_metrics(truth, check_results(results, truth, tasks), tasks, check_backend(backend, truth.protocol))


def compute_metrics(ground_truth: GroundTruth, results: Entries, tasks: Sequence[str], backend: str) -> Metrics:
    """Return the metrics of `evaluate_coco_results` for a `GroundTruth` and results that fit it."""
    if not results:
        logger.warning("There is not a single detection to evaluate: every AP is 0.")
    metrics: Metrics = OrderedDict()
    for task in tasks:
        if task == "keypoints" and ground_truth.protocol == "crowdpose":
            names: tuple[str, ...] = crowdpose.CROWDPOSE_METRICS
            stats = _CROWDPOSE_FUNCTIONS[backend](ground_truth, results)
        else:
            # CrowdPose's official tool evaluates boxes as COCO's does
            function = _COCO_FUNCTIONS.get(backend, coco_backends.pycocotools)
            names, stats = coco_backends.COCO_METRICS[task], function(ground_truth, results, task)
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
        raise UserError("the results are no list; give COCO-format results, a list of one object per detection")
    image_ids = {id_key(image["id"]): image["id"] for image in ground_truth.content["images"]}
    required = {"image_id", "category_id", "score", *tasks}
    sizes = {
        "bbox": (4, "x, y, width, height"),
        "keypoints": (3 * ground_truth.skeleton.num_keypoints, "x, y, confidence per keypoint"),
    }
    checked = []
    for number, result in enumerate(results):
        title = f"entry {number} of the results"
        if not isinstance(result, dict):
            raise UserError(f"{title} is {shown(result)} instead of an object with image_id, category_id, score, ..")
        missing = sorted(required - result.keys())
        if missing:
            raise UserError(f"{title} has no {missing[0]!r}; every detection needs {', '.join(sorted(required))}")
        key = id_key(result["image_id"])
        if key not in image_ids:
            raise UserError(f"{title} is of image {shown(result['image_id'])}, which is not in the data set")
        if id_key(result["category_id"]) != id_key(ground_truth.category_id):
            found = shown(result["category_id"])
            raise UserError(f"{title} has the category_id {found} instead of {ground_truth.category_id}")
        entry = {"image_id": image_ids[key], "category_id": ground_truth.category_id, "score": result["score"]}
        for task in tasks:
            length, meaning = sizes[task]
            values = entry[task] = flat(result[task])
            if not isinstance(values, list) or len(values) != length:
                found = f"{len(values)} values" if isinstance(values, list) else shown(values)
                raise UserError(f"{title} has in {task!r} {found} instead of {length} ({meaning})")
        if isinstance(result.get("bbox"), list) and len(result["bbox"]) == 4:
            entry["bbox"] = result["bbox"]
        if not all(are_finite_numbers(values) for values in [[entry["score"]], *map(entry.get, entry.keys() & TASKS)]):
            raise UserError(f"{title} holds values that are not finite numbers")
        if "bbox" in entry and min(entry["bbox"][2:]) < 0:
            raise UserError(f"{title} has a box of negative size: {entry['bbox']}")
        checked.append(entry)
    if not all("bbox" in entry for entry in checked):
        # the tools look at the first result only
        checked = [{key: value for key, value in entry.items() if key != "bbox"} for entry in checked]
    return checked


def check_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks as a tuple, or raise a `UserError`."""
    if not tasks or any(task not in TASKS for task in tasks):
        raise UserError(f"the tasks to evaluate are {tasks!r}; give one or both of {', '.join(TASKS)}")
    return tuple(tasks)


def check_backend(backend: str, protocol: str) -> str:
    """Return the name of the backend, or raise a `UserError` if it cannot evaluate by that protocol."""
    valid = _CROWDPOSE_FUNCTIONS if protocol == "crowdpose" else _COCO_FUNCTIONS
    if backend not in valid:
        raise UserError(
            f"the evaluation backend is {backend!r}; by the rules of {protocol} it must be one of {', '.join(valid)}"
        )
    return backend
