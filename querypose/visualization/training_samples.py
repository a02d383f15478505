"""Training samples as the mapper makes them, each beside its mirror image."""

from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from PIL import Image
from tqdm import tqdm

from querypose.data import PoseDatasetMapper, check_datasets, skeleton_of
from querypose.errors import UserError
from querypose.skeleton import Skeleton
from querypose.visualization.contact_sheet import contact_sheet
from querypose.visualization.draw_poses import draw_poses

SPLITS = ("train", "test")
HEADINGS = ("sample: left blue, right orange", "mirrored")
CELL = (400, 320)  # width and height in pixels of a picture on the sheet
SHEET_SAMPLES = 24


class SampleMaker:
    """Makes samples of a config's data set by number: the same number makes the same sample.

    A sample is a pair of the mapper's outputs (`image` (3, H, W) and `instances`): one as in training, and one with
    the same draws and a flip behind them, which must show the same persons with left and right exchanged.
    """

    def __init__(self, cfg: CfgNode, split: str):
        """
        Args:
            split: "train", the training data with their augmentation, or "test", the test data, resized as for tests.

        Raises:
            UserError: for data sets that cannot be used, or without a person.
        """
        is_train = split == "train"
        names = cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST
        if not names:
            raise UserError(f"the config names no data to show; set DATASETS.{split.upper()}")
        check_datasets(cfg, train=is_train, test=not is_train)
        self.skeleton: Skeleton = skeleton_of(cfg)
        self.image_format: str = cfg.INPUT.FORMAT
        if is_train:
            # as the training loader leaves images out
            filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
            min_keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
            self.records = get_detection_dataset_dicts(names, filter_empty, min_keypoints)
        else:
            self.records = get_detection_dataset_dicts(names, filter_empty=False)
        # test samples come with their persons, too
        options = {**PoseDatasetMapper.from_config(cfg, is_train=is_train), "is_train": True}
        flip = T.RandomFlip(prob=1.0, horizontal=True)
        mirroring = {**options, "augmentations": [*options["augmentations"], flip]}
        self._mappers = PoseDatasetMapper(**options), PoseDatasetMapper(**mirroring)

    def choose(self, number: int, seed: int) -> list[int]:
        """Numbers of that many samples, or of all if they are fewer, drawn at random."""
        return np.random.default_rng(seed).permutation(len(self.records))[:number].tolist()

    def make(self, number: int, seed: int) -> tuple[dict, dict]:
        """The sample with a number below `len(records)`, and its mirror image.

        Raises:
            UserError: for an image that cannot be read or is not of the annotated size.
        """
        sample, mirrored = (_with_seed(mapper, self.records[number], seed + number) for mapper in self._mappers)
        return sample, mirrored

    def draw(self, sample: dict, size: tuple[int, int] | None = None) -> np.ndarray:
        """The picture of a mapper's output with boxes, limbs and keypoints: (h, w, 3) uint8 RGB.

        size: width and height in which it is to fit, enlarged or shrunk before lines are drawn; None leaves it to
        `draw_poses`.
        """
        image = sample["image"].permute(1, 2, 0).numpy()
        if self.image_format == "BGR":
            image = image[:, :, ::-1]
        scale = min(size[0] / image.shape[1], size[1] / image.shape[0]) if size else None
        return draw_poses(np.ascontiguousarray(image), sample["instances"], self.skeleton, scale=scale)


def write_samples(maker: SampleMaker, folder: Path, number: int, seed: int = 0) -> int:
    """Write `number` samples, or all if they are fewer, each beside its mirror image, and return how many there are.

    Each is in `<count>_<image name>.png`; the sheet `samples.png` shows the first `SHEET_SAMPLES`. The folder is made
    if it is absent.

    Raises:
        UserError: for an image that cannot be used and for a folder that cannot be written to.
    """
    rows, titles = [], []
    chosen = maker.choose(number, seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for count, index in enumerate(tqdm(chosen, unit="sample", disable=None), start=1):
            samples = maker.make(index, seed)
            name = Path(maker.records[index]["file_name"])
            title = f"{name.name}: {len(samples[0]['instances'])} persons"
            pictures = [maker.draw(sample) for sample in samples]
            size = pictures[0].shape[1], pictures[0].shape[0]
            sheet = contact_sheet([pictures], [title], cell_size=size, headings=HEADINGS)
            Image.fromarray(sheet).save(folder / f"{count:03d}_{name.stem}.png")
            if count <= SHEET_SAMPLES:
                rows.append([maker.draw(sample, CELL) for sample in samples])
                titles.append(title)
        sheet = contact_sheet(rows, titles, columns=2, cell_size=CELL, headings=HEADINGS)
        Image.fromarray(sheet).save(folder / "samples.png")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another --output.") from error
    return len(chosen)


def _with_seed(mapper: PoseDatasetMapper, record: dict, seed: int) -> dict:
    """Detectron2's augmentations draw from numpy's global generator, which is left as it was."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        return mapper(record)
    finally:
        np.random.set_state(state)
