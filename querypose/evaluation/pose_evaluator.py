"""The evaluator that runs during training and testing, and the file that COCO's server takes for test-dev."""

import copy
import itertools
import json
import logging
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from querypose.atomic_io import writing
from querypose.errors import UserError
from querypose.evaluation.coco_results import TASKS, Metrics, compute_metrics
from querypose.evaluation.ground_truth import Entries, load_ground_truth

logger = logging.getLogger(__name__)


class PoseEvaluator(DatasetEvaluator):
    """Evaluate the poses of a registered data set once, on the main process, with the detections of all processes.

    They are written, boxes and keypoints together, to `<output_dir>/coco_instances_results.json` in COCO's format with
    the file's own ids, less the 0.5 pixels that the loader adds to keypoints. A data set without annotations (a test
    set) is not evaluated; for one whose metadata names a `submission_split`, test-dev, the file to submit is written
    too, with `name` as the algorithm's. Images that could not be read (`unreadable` in the input) have no detections.
    """

    @configurable
    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | None = None,
        sigmas: Sequence[float] | None = None,
        backend: str = "faster-coco-eval",
        name: str = "querypose",
    ) -> None:
        self._dataset_name = dataset_name
        self._ground_truth = load_ground_truth(dataset_name, sigmas)
        self._output_dir, self._backend, self._name = output_dir, backend, name
        self.reset()

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None) -> dict[str, Any]:
        name = os.path.basename(os.path.abspath(cfg.OUTPUT_DIR))
        options = {"sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS, "backend": cfg.TEST.EVALUATOR_BACKEND, "name": name}
        return {"dataset_name": dataset_name, "output_dir": output_dir, **options}

    def reset(self) -> None:
        self._results: Entries = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for given, output in zip(inputs, outputs, strict=True):
            if given.get("unreadable"):
                continue
            # Detectron2's conversion moves the keypoints in place; the outputs belong to the caller.
            instances = copy.deepcopy(output["instances"].to("cpu"))
            for result in instances_to_coco_json(instances, given["image_id"]):
                self._results.append({**result, "category_id": self._ground_truth.category_id})

    def evaluate(self) -> Metrics:
        """Return the metrics of `evaluate_coco_results` on the main process, an empty dict on the others."""
        comm.synchronize()
        results = list(itertools.chain(*comm.gather(self._results, dst=0)))
        if not comm.is_main_process():
            return {}
        has_annotations = bool(self._ground_truth.content["annotations"])
        if self._output_dir:
            try:
                with writing(self._output_dir, "set OUTPUT_DIR"):
                    self._write(results, Path(self._output_dir))
            except UserError as error:
                if not has_annotations:
                    raise
                logger.error("%s (AP is computed without)", error)
        if has_annotations:
            return compute_metrics(self._ground_truth, results, TASKS, self._backend)
        logger.info("%s has no annotations, so no AP can be computed for the results.", self._dataset_name)
        return {}

    def _write(self, results: Entries, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "coco_instances_results.json").write_text(json.dumps(results))
        if split := MetadataCatalog.get(self._dataset_name).get("submission_split"):
            logger.info("The file to submit for %s is %s", split, write_submission(results, folder, split, self._name))


def write_submission(results: Entries, folder: str | os.PathLike[str], split: str, name: str) -> Path:
    """Write the zip file with one JSON file in it, `person_keypoints_[split]_[name]_results`, and return its path.

    Of each image the 20 best poses are written, which are those that count, with keypoints to a hundredth of a pixel.
    Boxes are left out: the server would take the area of a box for the person's. split: such as "test-dev2017".
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)  # what the server takes
    poses = []
    ordered = sorted(results, key=lambda result: (result["image_id"], -result["score"]))
    for _, found in itertools.groupby(ordered, key=lambda result: result["image_id"]):
        for pose in itertools.islice(found, 20):
            values = {"keypoints": [round(v, 2) for v in pose["keypoints"]], "score": round(pose["score"], 6)}
            poses.append({"image_id": pose["image_id"], "category_id": pose["category_id"], **values})
    path = Path(folder) / f"person_keypoints_{split}_{name}_results.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{path.stem}.json", json.dumps(poses, separators=(",", ":")))
    return path
