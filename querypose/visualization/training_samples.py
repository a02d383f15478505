"""Training samples as the mapper makes them, each beside its mirror image."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from tqdm import tqdm

from querypose.data import PoseDatasetMapper, check_datasets, skeleton_of, training_records
from querypose.errors import UserError
from querypose.visualization.contact_sheet import write_sheets
from querypose.visualization.draw_poses import draw_poses


class SampleMaker:
    """Makes samples of a config's data set by index; the same index and seed make the same sample.

    A sample is a pair of the mapper's outputs: one as in training, or for the split "test" resized as in evaluation,
    and one with the same random numbers and a flip after them, which must show the same persons with left and right
    exchanged. Raises `UserError` for data sets that cannot be used, or without persons.
    """

    def __init__(self, cfg: CfgNode, split: str):
        is_train = split == "train"
        names = cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST
        if not names:
            raise UserError(f"the config names no data; set DATASETS.{split.upper()}")
        check_datasets(cfg, train=is_train, test=not is_train)
        self.skeleton, self.image_format = skeleton_of(cfg), cfg.INPUT.FORMAT
        self.records = training_records(cfg) if is_train else get_detection_dataset_dicts(names, filter_empty=False)
        # test samples have their persons, too
        options = {**PoseDatasetMapper.from_config(cfg, is_train=is_train), "is_train": True}
        flip = T.RandomFlip(prob=1.0, horizontal=True)
        mirroring = {**options, "augmentations": [*options["augmentations"], flip]}
        self._mappers = PoseDatasetMapper(**options), PoseDatasetMapper(**mirroring)

    def make(self, index: int, seed: int) -> list[dict[str, Any]]:
        """The sample of `records[index]` and its mirror image; raises `UserError` for an image that does not fit."""
        state, pair = np.random.get_state(), []
        try:
            for mapper in self._mappers:
                np.random.seed((seed + index) % 2**32)  # Detectron2 samples from numpy's global generator
                pair.append(mapper(self.records[index]))
        finally:
            np.random.set_state(state)
        return pair

    def draw(self, sample: dict[str, Any]) -> np.ndarray:
        """Draw boxes, limbs and keypoints of a mapper output: (h, w, 3) uint8 RGB."""
        image = sample["image"].permute(1, 2, 0).numpy()
        image = np.ascontiguousarray(image[:, :, ::-1] if self.image_format == "BGR" else image)
        return draw_poses(image, sample["instances"], self.skeleton)


def write_samples(maker: SampleMaker, folder: Path, number: int, seed: int = 0) -> int:
    """Write at most `number` random samples, each beside its mirror image, and `samples.png`; return how many."""
    chosen = np.random.default_rng(seed).permutation(len(maker.records))[:number].tolist()

    def sheets() -> Iterator[tuple[str, str, list[np.ndarray]]]:
        for count, index in enumerate(tqdm(chosen, unit="sample", disable=None), start=1):
            samples = maker.make(index, seed)
            name = Path(maker.records[index]["file_name"])
            title = f"{name.name}: {len(samples[0]['instances'])} persons"
            yield f"{count:03d}_{name.stem}.png", title, [maker.draw(sample) for sample in samples]

    write_sheets(sheets(), folder, "samples.png", ("sample: left blue, right orange", "mirrored"))
    return len(chosen)
