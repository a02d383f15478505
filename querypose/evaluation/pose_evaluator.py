"""The evaluator that runs during training and testing: it gathers detections and scores them once."""

import copy
import itertools
import json
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from querypose.errors import UserError
from querypose.evaluation.coco_results import TASKS, Metrics, check_options, compute_metrics
from querypose.evaluation.ground_truth import Entries, ground_truth_of
from querypose.evaluation.submission import submission_name, write_submission

logger = logging.getLogger(__name__)


class PoseEvaluator(DatasetEvaluator):
    """Evaluate the poses of a data set once, on the main process, with the detections of all processes.

    Outputs are Detectron2's: per image a dict with `instances` (`pred_boxes`, `scores`, `pred_classes`,
    `pred_keypoints` (n, K, 3) in pixels). They are written, boxes and keypoints together, to
    `<output_dir>/coco_instances_results.json` in COCO's format with the file's own ids, less the 0.5 pixels that
    the loader adds to keypoints. A data set without annotations (a test set) is not evaluated; for one whose
    metadata names a `submission_split`, test-dev, the file to submit is written too.

    Images that could not be read (`unreadable` in the input) have no detections: their persons count as missed.
    """

    @configurable
    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | None = None,
        sigmas: Sequence[float] | None = None,
        tasks: Sequence[str] = TASKS,
        backend: str = "faster-coco-eval",
        name: str = "querypose",
    ) -> None:
        """
        Args:
            dataset_name: a registered data set with `json_file`, by the rules of `ground_truth_of`.
            output_dir: folder for the results, or None to write none.
            sigmas: K OKS sigmas; default the data set's.
            tasks: of "bbox" and "keypoints".
            backend: one of `BACKENDS`.
            name: of the algorithm, in the name of a file to submit.
        """
        self._dataset_name = dataset_name
        self._ground_truth = ground_truth_of(dataset_name, sigmas=sigmas)
        check_options(tasks, backend, self._ground_truth.protocol)
        self._submission_split = MetadataCatalog.get(dataset_name).get("submission_split")
        if self._submission_split:
            submission_name(self._submission_split, name)
        self._output_dir = output_dir
        self._tasks = tasks
        self._backend = backend
        self._name = name
        self.reset()

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None) -> dict[str, Any]:
        return {
            "dataset_name": dataset_name,
            "output_dir": output_dir,
            "sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS,
            "backend": cfg.TEST.EVALUATOR_BACKEND,
            "name": re.sub(r"[^A-Za-z0-9_.-]+", "-", os.path.basename(os.path.abspath(cfg.OUTPUT_DIR))),
        }

    def reset(self) -> None:
        self._results: Entries = []
        self._unreadable: list[str] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for given, output in zip(inputs, outputs, strict=True):
            if given.get("unreadable"):
                self._unreadable.append(given["file_name"])
                continue
            # Detectron2's conversion moves the keypoints in place; the outputs belong to the caller.
            instances = copy.deepcopy(output["instances"].to("cpu"))
            for result in instances_to_coco_json(instances, given["image_id"]):
                self._results.append({**result, "category_id": self._ground_truth.category_id})

    def evaluate(self) -> Metrics:
        """Return the metrics of `evaluate_coco_results` on the main process, an empty dict on the others."""
        comm.synchronize()
        results = list(itertools.chain(*comm.gather(self._results, dst=0)))
        unreadable = list(itertools.chain(*comm.gather(self._unreadable, dst=0)))
        if not comm.is_main_process():
            return OrderedDict()
        if unreadable:
            text = "%d images of %s could not be read (the first is %s): their persons count as missed."
            logger.warning(text, len(unreadable), self._dataset_name, unreadable[0])
        if self._output_dir:
            try:
                self._write(results, self._output_dir)
            except OSError as error:
                text = f"cannot write the results to {self._output_dir}: {error.strerror or error}; set OUTPUT_DIR"
                if not self._ground_truth.content["annotations"]:
                    raise UserError(text) from error
                logger.error("%s (AP is computed without)", text)
        if not self._ground_truth.content["annotations"]:
            logger.info("%s has no annotations, so no AP can be computed for the results.", self._dataset_name)
            return OrderedDict()
        return compute_metrics(self._ground_truth, results, self._tasks, self._backend)

    def _write(self, results: Entries, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "coco_instances_results.json"), "w") as file:
            json.dump(results, file)
        if self._submission_split:
            path = write_submission(results, folder, self._submission_split, self._name)
            logger.info("The file to submit for %s is %s", self._submission_split, path)
