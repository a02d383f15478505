"""From COCO-format results and annotations to metrics by name, by COCO's or CrowdPose's rules."""

import logging
from collections import OrderedDict

from detectron2.utils.logger import create_small_table

from querypose.data.coco_format import are_finite_numbers
from querypose.errors import UserError
from querypose.evaluation import coco_backends, crowdpose
from querypose.evaluation.ground_truth import load_ground_truth

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


def evaluate_coco_results(ground_truth, results, sigmas=None, tasks=TASKS, backend="faster-coco-eval", protocol=None):
    """Evaluate COCO-format results against COCO-format annotations.

    Image size classes of detections are by their box, or by the extent of their keypoints in results without boxes.

    Args:
        ground_truth, sigmas, protocol: as `source`, `sigmas` and `protocol` of `load_ground_truth`.
        results: list of dicts with `image_id`, `category_id`, `score` and, by task, `bbox` (x, y, width,
            height in pixels) and `keypoints` (3K numbers: x, y in pixels, confidence); none need be found.
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
    check_results(results, truth, tasks)
    return compute_metrics(truth, results, tasks, check_backend(backend, truth.protocol))


def compute_metrics(ground_truth, results, tasks, backend):
    """Return the metrics of `evaluate_coco_results` for a `GroundTruth` and results that fit it."""
    if not results:
        logger.warning("There is not a single detection to evaluate: every AP is 0.")
    metrics = OrderedDict()
    for task in tasks:
        if task == "keypoints" and ground_truth.protocol == "crowdpose":
            names, stats = crowdpose.CROWDPOSE_METRICS, _CROWDPOSE_FUNCTIONS[backend](ground_truth, results)
        else:
            # the official tool of CrowdPose has no word on boxes that COCO's has not
            function = _COCO_FUNCTIONS.get(backend, coco_backends.pycocotools)
            names, stats = coco_backends.COCO_METRICS[task], function(ground_truth, results, task)
        # The evaluation says -1 where there is no ground truth, of small persons, say.
        values = [100 * float(value) if value >= 0 else float("nan") for value in stats]
        metrics[task] = dict(zip(names, values, strict=True))
        logger.info("Evaluation of %s:\n%s", task, create_small_table(metrics[task]))
    return metrics


def check_results(results, ground_truth, tasks):
    """Raise a `UserError` about the first entry of COCO-format `results` that does not fit a `GroundTruth`."""
    if not isinstance(results, list):
        raise UserError("the results are no list; give COCO-format results, a list of one object per detection")
    image_ids = {image["id"] for image in ground_truth.content["images"]}
    category_id = ground_truth.category_id
    required = {"image_id", "category_id", "score", *tasks}
    sizes = {
        "bbox": (4, "x, y, width, height"),
        "keypoints": (3 * ground_truth.skeleton.num_keypoints, "x, y, confidence per keypoint"),
    }
    for number, result in enumerate(results):
        title = f"entry {number} of the results"
        if not isinstance(result, dict):
            raise UserError(f"{title} is {result!r} instead of an object with image_id, category_id, score, ..")
        missing = sorted(required - result.keys())
        if missing:
            raise UserError(f"{title} has no {missing[0]!r}; every detection needs {', '.join(sorted(required))}")
        if not isinstance(result["image_id"], int | str) or result["image_id"] not in image_ids:
            raise UserError(f"{title} is of image {result['image_id']!r}, which is not in the data set")
        if result["category_id"] != category_id:
            raise UserError(f"{title} has the category_id {result['category_id']!r} instead of {category_id}")
        for key in tasks:
            length, meaning = sizes[key]
            values = result[key]
            if not isinstance(values, list) or len(values) != length:
                found = f"{len(values)} values" if isinstance(values, list) else repr(values)
                raise UserError(f"{title} has in {key!r} {found} instead of {length} ({meaning})")
        if not all(are_finite_numbers(values) for values in ([result["score"]], *(result[key] for key in tasks))):
            raise UserError(f"{title} holds values that are not finite numbers")


def check_tasks(tasks):
    """Return the tasks as a tuple, or raise a `UserError`."""
    if not tasks or any(task not in TASKS for task in tasks):
        raise UserError(f"the tasks to evaluate are {tasks!r}; give one or both of {', '.join(TASKS)}")
    return tuple(tasks)


def check_backend(backend, protocol):
    """Return the name of the backend, or raise a `UserError` if it cannot evaluate by that protocol."""
    valid = _CROWDPOSE_FUNCTIONS if protocol == "crowdpose" else _COCO_FUNCTIONS
    if backend not in valid:
        raise UserError(
            f"the evaluation backend is {backend!r}; by the rules of {protocol} it must be one of {', '.join(valid)}"
        )
    return backend
