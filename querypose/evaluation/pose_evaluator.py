"""Box AP and keypoint AP by COCO's rules, during training and from files of results."""

import contextlib
import copy
import io
import itertools
import json
import logging
import os
from collections import OrderedDict

import numpy as np
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from querypose.data.coco_format import (
    are_finite_numbers,
    first_problem,
    keypoint_category,
    load_coco_format,
)
from querypose.data.coco_keypoints import annotation_file
from querypose.errors import UserError
from querypose.skeleton import Skeleton

logger = logging.getLogger(__name__)

BACKENDS = ("faster-coco-eval", "pycocotools")

# Names of the summary's numbers in the order in which COCO's evaluation gives them.
_METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR", "ARs", "ARm", "ARl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}

# Person area over box area, where a file gives no area: CrowdPose's convention.
_AREA_PER_BOX_AREA = 0.53


class PoseEvaluator(DatasetEvaluator):
    """Evaluate the poses of a data set once, on the main process, with the detections of all processes.

    Outputs are Detectron2's: per image a dict with `instances` (`pred_boxes`, `scores`, `pred_classes`,
    `pred_keypoints` (n, K, 3) in pixels). They are written, boxes and keypoints together, to
    `<output_dir>/coco_instances_results.json` in COCO's format, less the 0.5 pixels that Detectron2's
    loader adds to keypoints. Of a data set without annotations (a test set) nothing more is done.
    """

    @configurable
    def __init__(
        self,
        dataset_name,
        *,
        output_dir=None,
        sigmas=None,
        tasks=("bbox", "keypoints"),
        backend="faster-coco-eval",
        distributed=True,
    ):
        """
        Args:
            dataset_name: a registered data set with `json_file`.
            output_dir: folder for the results, or None to write none.
            sigmas: K OKS sigmas; default the data set's.
            tasks: of "bbox" and "keypoints".
            backend: one of `BACKENDS`.
            distributed: whether to gather the detections of all processes.
        """
        skeleton = Skeleton.from_metadata(MetadataCatalog.get(dataset_name), sigmas=sigmas)
        self._dataset_name = dataset_name
        self._ground_truth = _load_ground_truth(annotation_file(dataset_name), skeleton.num_keypoints)
        self._output_dir = output_dir
        self._sigmas = skeleton.sigmas
        self._tasks = _check_tasks(tasks)
        self._backend = _check_backend(backend)
        self._distributed = distributed
        self._results = []

    @classmethod
    def from_config(cls, cfg, dataset_name, output_dir=None):
        return {
            "dataset_name": dataset_name,
            "output_dir": output_dir,
            "sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS,
            "backend": cfg.TEST.EVALUATOR_BACKEND,
        }

    def reset(self):
        self._results = []

    def process(self, inputs, outputs):
        category_id = self._ground_truth["categories"][0]["id"]
        for given, output in zip(inputs, outputs, strict=True):
            # Detectron2's conversion moves the keypoints in place; the outputs belong to the caller.
            instances = copy.deepcopy(output["instances"].to("cpu"))
            for result in instances_to_coco_json(instances, given["image_id"]):
                self._results.append({**result, "category_id": category_id})

    def evaluate(self):
        """Return the metrics of `evaluate_coco_results` on the main process, an empty dict on the others."""
        results = self._results
        if self._distributed:
            comm.synchronize()
            results = list(itertools.chain(*comm.gather(results, dst=0)))
            if not comm.is_main_process():
                return OrderedDict()
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
            with open(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as file:
                json.dump(results, file)
        if not self._ground_truth["annotations"]:
            logger.info(
                "%s has no annotations: the results are written, but not evaluated.", self._dataset_name
            )
            return OrderedDict()
        return _evaluate(self._ground_truth, results, self._sigmas, self._tasks, self._backend)


def evaluate_coco_results(
    ground_truth, results, sigmas=None, tasks=("bbox", "keypoints"), backend="faster-coco-eval"
):
    """Evaluate COCO-format results against COCO-format annotations.

    Of the annotations only the category with keypoints counts. An annotation without `area` gets 0.53 times
    that of its box, one without `num_keypoints` the number of its labelled keypoints. Image size classes of
    detections are by their box, or by the extent of their keypoints in results without boxes.

    Args:
        ground_truth: an annotation file, or its content (a dict, which stays as it is).
        results: list of dicts with `image_id`, `category_id`, `score` and, by task, `bbox` (x, y, width,
            height in pixels) and `keypoints` (3K numbers: x, y in pixels, confidence); none need be found.
        sigmas: K OKS sigmas; default those of the file, or known by the keypoints' names.
        tasks: of "bbox" and "keypoints".
        backend: "faster-coco-eval" or "pycocotools", which give the same numbers.

    Returns:
        by task the metrics by name (AP, AP50, AP75, APm, APl, AR, ..), in percent. Without any detection they
        are 0; NaN where there is no ground truth of the size.

    Raises:
        UserError: for results that do not fit the annotations.
    """
    if isinstance(ground_truth, dict):
        content, path = (
            {"images": [], "categories": [], "annotations": [], **ground_truth},
            "the given annotations",
        )
    else:
        content, path = load_coco_format(ground_truth), ground_truth
    category, _ = keypoint_category(content, path)
    if category is None:
        raise UserError(f"{path} has no category with keypoints; evaluate against a keypoint file")
    problem = first_problem(content, category, path)
    if problem:
        raise UserError(problem)
    skeleton = Skeleton.from_coco_category(category, sigmas)
    ground_truth = _complete_ground_truth(content, path, skeleton.num_keypoints)
    if not ground_truth["annotations"]:
        raise UserError(f"{path} has no annotations of persons; evaluate against a file that has")
    tasks = _check_tasks(tasks)
    check_results(results, ground_truth, skeleton.num_keypoints, tasks)
    return _evaluate(ground_truth, results, skeleton.sigmas, tasks, _check_backend(backend))


def check_results(results, ground_truth, num_keypoints, tasks):
    """Raise a `UserError` about the first entry of COCO-format `results` that does not fit `ground_truth`."""
    if not isinstance(results, list):
        raise UserError(
            "the results are no list; give COCO-format results, a list of one object per detection"
        )
    image_ids = {image["id"] for image in ground_truth["images"]}
    category_ids = {category["id"] for category in ground_truth["categories"]}
    required = {"image_id", "category_id", "score", *tasks}
    sizes = {
        "bbox": (4, "x, y, width, height"),
        "keypoints": (3 * num_keypoints, "x, y, confidence per keypoint"),
    }
    for number, result in enumerate(results):
        title = f"entry {number} of the results"
        if not isinstance(result, dict):
            raise UserError(
                f"{title} is {result!r} instead of an object with image_id, category_id, score, .."
            )
        missing = sorted(required - result.keys())
        if missing:
            raise UserError(
                f"{title} has no {missing[0]!r}; every detection needs {', '.join(sorted(required))}"
            )
        if result["image_id"] not in image_ids:
            raise UserError(f"{title} is of image {result['image_id']!r}, which is not in the data set")
        if result["category_id"] not in category_ids:
            expected = ", ".join(map(str, sorted(category_ids)))
            raise UserError(f"{title} has the category_id {result['category_id']!r} instead of {expected}")
        for key in tasks:
            length, meaning = sizes[key]
            values = result[key]
            if not isinstance(values, list) or len(values) != length:
                found = f"{len(values)} values" if isinstance(values, list) else repr(values)
                raise UserError(f"{title} has in {key!r} {found} instead of {length} ({meaning})")
        if not all(
            are_finite_numbers(values) for values in ([result["score"]], *(result[key] for key in tasks))
        ):
            raise UserError(f"{title} holds values that are not finite numbers")


def _evaluate(ground_truth, results, sigmas, tasks, backend):
    if not results:
        logger.warning("There is not a single detection to evaluate: every AP is 0.")
    metrics = OrderedDict()
    for task in tasks:
        stats = _BACKEND_FUNCTIONS[backend](ground_truth, results, task, sigmas)
        # COCO's evaluation says -1 where there is no ground truth, of small persons, say.
        values = [100 * float(value) if value >= 0 else float("nan") for value in stats]
        metrics[task] = dict(zip(_METRICS[task], values, strict=True))
        logger.info("Evaluation of %s:\n%s", task, create_small_table(metrics[task]))
    return metrics


def _evaluate_by_faster_coco_eval(ground_truth, results, task, sigmas):
    from faster_coco_eval import COCO, COCOeval_faster

    annotations = COCO(_copy_entries(ground_truth))
    detections = annotations.loadRes([dict(result) for result in results])
    extra = {"kpt_oks_sigmas": list(sigmas)} if task == "keypoints" else {}
    evaluation = COCOeval_faster(annotations, detections, task, print_function=lambda *_: None, **extra)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[: len(_METRICS[task])]


def _evaluate_by_pycocotools(ground_truth, results, task, sigmas):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO()
        annotations.dataset = _copy_entries(ground_truth)
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
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


_BACKEND_FUNCTIONS = dict(
    zip(BACKENDS, (_evaluate_by_faster_coco_eval, _evaluate_by_pycocotools), strict=True)
)


def _copy_entries(ground_truth):
    # Both backends add keys to the entries that they are given; their values they leave alone.
    return {key: [dict(entry) for entry in entries] for key, entries in ground_truth.items()}


def _load_ground_truth(path, num_keypoints):
    return _complete_ground_truth(load_coco_format(path), path, num_keypoints)


def _complete_ground_truth(content, path, num_keypoints):
    """Return the persons of COCO-format `content` with all that COCO's evaluation looks at."""
    category, category_id = keypoint_category(content, path)
    annotations = []
    for annotation in content["annotations"]:
        if annotation["category_id"] != category_id:
            continue
        keypoints = annotation.get("keypoints") or [0] * (3 * num_keypoints)
        width, height = annotation["bbox"][2:]
        defaults = {
            "iscrowd": 0,
            "area": _AREA_PER_BOX_AREA * width * height,
            "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
        }
        person = {**defaults, **annotation, "keypoints": keypoints}
        # Polygons are large, and no task needs them.
        person.pop("segmentation", None)
        annotations.append(person)
    return {
        "images": content["images"],
        "categories": [category or {"id": category_id, "name": "person"}],
        "annotations": annotations,
    }


def _check_tasks(tasks):
    if not tasks or any(task not in _METRICS for task in tasks):
        raise UserError(f"the tasks to evaluate are {tasks!r}; give one or both of {', '.join(_METRICS)}")
    return tuple(tasks)


def _check_backend(backend):
    if backend not in BACKENDS:
        raise UserError(f"the evaluation backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
    return backend
