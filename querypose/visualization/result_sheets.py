"""What the sheets of `write_sheets` show: training samples, results beside the ground truth, the attention of parts."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from tqdm import tqdm

from querypose.atomic_io import writing
from querypose.data import PoseDatasetMapper, check_datasets, skeleton_of, training_records
from querypose.data.annotations import image_path
from querypose.errors import UserError
from querypose.evaluation.ground_truth import Entries, GroundTruth
from querypose.evaluation.matching import ImageMatching
from querypose.image_io import UnreadableImageError, read_image_rgb
from querypose.structures import Persons
from querypose.visualization.contact_sheet import SheetEntry, write_sheets
from querypose.visualization.draw_poses import coco_fields, draw_poses, overlay_attention


class SampleMaker:
    """Samples of a config's data set as the mapper makes them in training, or for the split "test" resized as in
    evaluation, each with the same random numbers once more and a flip after them."""

    def __init__(self, cfg: CfgNode, split: str):
        is_train, test = split == "train", cfg.DATASETS.TEST
        if not (is_train or test):
            raise UserError("the config names no data to test on; set DATASETS.TEST")
        check_datasets(cfg, train=is_train, test=not is_train)
        self.skeleton, self.image_format = skeleton_of(cfg), cfg.INPUT.FORMAT
        self.records = training_records(cfg) if is_train else get_detection_dataset_dicts(test, filter_empty=False)
        # test samples have their persons, too
        options = {**PoseDatasetMapper.from_config(cfg, is_train=is_train), "is_train": True}
        mirroring = {**options, "augmentations": [*options["augmentations"], T.RandomFlip(prob=1.0)]}
        self.mappers = PoseDatasetMapper(**options), PoseDatasetMapper(**mirroring)

    def make(self, index: int, seed: int) -> list[dict[str, Any]]:
        """The sample of `records[index]` and its mirror image, the same for the same index and seed."""
        pair = []
        for mapper in self.mappers:
            np.random.seed((seed + index) % 2**32)  # Detectron2 samples from numpy's global generator
            pair.append(mapper(self.records[index]))
        return pair

    def draw(self, sample: dict[str, Any]) -> np.ndarray:
        """Draw boxes, limbs and keypoints of a mapper output: (h, w, 3) uint8 RGB."""
        image = read_image_rgb(sample["image"], self.image_format)
        return draw_poses(image, sample["instances"], self.skeleton)

    def sheets(self, number: int, seed: int) -> Iterator[SheetEntry]:
        """Of `number` random samples and their mirror images."""
        chosen = np.random.default_rng(seed).permutation(len(self.records))[:number].tolist()
        for count, index in enumerate(tqdm(chosen, unit="sample", disable=None), start=1):
            samples, name = self.make(index, seed), Path(self.records[index]["file_name"])
            title = f"{name.name}: {len(samples[0]['instances'])} persons"
            yield f"{count:03d}_{name.stem}.png", title, [self.draw(sample) for sample in samples]


def write_results(
    output: Path,
    truth: GroundTruth,
    results: Entries,
    image_root: str,
    errors: Sequence[ImageMatching],
    number: int,
    **limits: Any,
) -> list[UserError]:
    """Write sheets of the ground truth and the results in the first `number` images of `errors`, drawn with `limits`,
    and a table of all errors; return what is wrong with images that cannot be read."""
    names = {image["id"]: image["file_name"] for image in truth.content["images"]}
    entries_of: defaultdict[Any, tuple[Entries, Entries]] = defaultdict(lambda: ([], []))
    persons = [person for person in truth.content["annotations"] if not person["iscrowd"]]
    for column, entries in enumerate((persons, results)):
        for entry in entries:
            entries_of[entry["image_id"]][column].append(entry)
    failures: list[UserError] = []

    def sheets() -> Iterator[SheetEntry]:
        for rank, error in enumerate(tqdm(errors[:number], unit="image", disable=None), start=1):
            name = Path(names[error.image_id])
            title = f"{rank}. {name.name}: error {error.error:.2f}, {len(error.pairs)} of {len(error.best_oks)} found"
            if error.false_positives:
                title += f", {error.false_positives} false positives"
            try:
                image = read_image_rgb(image_path(image_root, names[error.image_id]))
            except UnreadableImageError as unreadable:
                failures.append(unreadable)
                continue
            pair = zip(entries_of[error.image_id], (True, False), strict=True)
            fields = [coco_fields(here, truth.skeleton.num_keypoints, ground_truth=given) for here, given in pair]
            images = [draw_poses(image, each, truth.skeleton, **limits) for each in fields]
            yield f"{rank:04d}_{name.stem}.png", title, images

    write_sheets(sheets(), output, "images.png", ("ground truth", "results"))
    with writing(output), open(output / "images.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("rank", "image_id", "file_name", "error", "persons", "found", "false_positives"))
        for rank, error in enumerate(errors, start=1):
            counts = len(error.best_oks), len(error.pairs), error.false_positives
            rows.writerow([rank, error.image_id, names[error.image_id], f"{error.error:.4f}", *counts])
    return failures


def attention_panels(image: np.ndarray, persons: Persons, index: int, height: int) -> list[np.ndarray]:
    """Crop one person and draw its pose, `height` pixels high, and on darkened crops the attention of each part: M + 1
    images."""
    box = persons.attention_boxes.tensor[index].numpy()
    size, margin = np.array(image.shape[1::-1]), 0.1 * (box[2:] - box[:2])
    low = np.clip(np.floor(box[:2] - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(box[2:] + margin), low + 1, size).astype(int)
    crop = image[low[1] : high[1], low[0] : high[0]]
    person = {"pred_keypoints": persons.pred_keypoints[index : index + 1].numpy() - (*low, 0)}
    pose = draw_poses(crop, person, persons.skeleton, keypoint_threshold=0.0, scale=height / len(crop))
    boxes = [box - np.tile(low, 2)]
    return [pose, *(overlay_attention(crop // 2, part[None, None], boxes) for part in persons.part_attention[index])]
