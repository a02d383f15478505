"""Training samples as the mapper makes them, each beside its mirror image."""

from collections.abc import Iterator
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from tqdm import tqdm

from querypose.data import PoseDatasetMapper, check_datasets, skeleton_of, training_records
from querypose.errors import UserError
from querypose.skeleton import Skeleton
from querypose.visualization.contact_sheet import write_sheets
from querypose.visualization.draw_poses import draw_poses

SPLITS = ("train", "test")
HEADINGS = ("sample: left blue, right orange", "mirrored")


class SampleMaker:
    """Makes samples of a config's data set by index; the same index and seed make the same sample.

    A sample is a pair of the mapper's outputs (`image` (3, H, W) and `instances`): one as in training, and one with
    the same random numbers and a flip after them, which must show the same persons with left and right exchanged.
    """

    def __init__(self, cfg: CfgNode, split: str):
        """
        Args:
            split: "train", the training data with augmentation, or "test", the test data resized as in evaluation.

        Raises:
            UserError: for data sets that cannot be used, or without persons.
        """
        is_train = split == "train"
        names = cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST
        if not names:
            raise UserError(f"the config names no data; set DATASETS.{split.upper()}")
        check_datasets(cfg, train=is_train, test=not is_train)
        self.skeleton: Skeleton = skeleton_of(cfg)
        self.image_format: str = cfg.INPUT.FORMAT
        self.records = training_records(cfg) if is_train else get_detection_dataset_dicts(names, filter_empty=False)
        # test samples have their persons, too
        options = {**PoseDatasetMapper.from_config(cfg, is_train=is_train), "is_train": True}
        flip = T.RandomFlip(prob=1.0, horizontal=True)
        mirroring = {**options, "augmentations": [*options["augmentations"], flip]}
        self._mappers = PoseDatasetMapper(**options), PoseDatasetMapper(**mirroring)

    def make(self, index: int, seed: int) -> tuple[dict, dict]:
        """The sample with an index below `len(records)`, and its mirror image.

        Raises:
            UserError: for an image that cannot be read or is not of the annotated size.
        """
        sample, mirrored = (_with_seed(mapper, self.records[index], seed + index) for mapper in self._mappers)
        return sample, mirrored

    def draw(self, sample: dict) -> np.ndarray:
        """Draw boxes, limbs and keypoints of a mapper output: (h, w, 3) uint8 RGB."""
        image = sample["image"].permute(1, 2, 0).numpy()
        image = np.ascontiguousarray(image[:, :, ::-1] if self.image_format == "BGR" else image)
        return draw_poses(image, sample["instances"], self.skeleton)


def write_samples(maker: SampleMaker, folder: Path, number: int, seed: int = 0) -> int:
    """Write `number` random samples, or all if they are fewer, each beside its mirror image; return how many.

    Each is in `<count>_<image name>.png`; `samples.png` shows the first ones. The folder is created if it does not
    exist.

    Raises:
        UserError: for an image that cannot be used and for a folder that cannot be written to.
    """
    chosen = np.random.default_rng(seed).permutation(len(maker.records))[:number].tolist()

    def entries() -> Iterator[tuple[str, str, list[np.ndarray]]]:
        for count, index in enumerate(tqdm(chosen, unit="sample", disable=None), start=1):
            samples = maker.make(index, seed)
            name = Path(maker.records[index]["file_name"])
            title = f"{name.name}: {len(samples[0]['instances'])} persons"
            yield f"{count:03d}_{name.stem}.png", title, [maker.draw(sample) for sample in samples]

    write_sheets(entries(), folder, "samples.png", HEADINGS)
    return len(chosen)


def _with_seed(mapper: PoseDatasetMapper, record: dict, seed: int) -> dict:
    """Run the mapper with a seed for numpy's global generator, which Detectron2 samples from, and restore its state."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        return mapper(record)
    finally:
        np.random.set_state(state)
