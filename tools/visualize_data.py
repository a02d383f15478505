#!/usr/bin/env python3
r"""Visualize training samples as the model receives them, augmented, with boxes, keypoints, limbs, beside their flips.

Examples:
    python tools/visualize_data.py --config-file configs/quickstart.yaml --output samples
    python tools/visualize_data.py --config-file configs/querypose_R50.yaml --output samples --number 40 \
        DATASETS.TRAIN "('mine/train.json@mine/pictures',)"

Writes OUTPUT/<number>_<image name>.png and OUTPUT/samples.png, a sheet of the first 24. A person's left is blue and the
right orange in both images: if blue changes sides in the mirrored one, the flip does not exchange left and right.
"""

import argparse
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
from detectron2.data import get_detection_dataset_dicts
from tqdm import tqdm

from querypose.data import PoseDatasetMapper, check_datasets, skeleton_of, training_records
from querypose.errors import UserError, exit_on_user_error
from querypose.setup_config import setup_config
from querypose.visualization.contact_sheet import write_sheets
from querypose.visualization.draw_poses import draw_poses


class SampleMaker:
    """Samples of a config's data set: pairs of the mapper's outputs as in training, or for the split "test" resized as
    in evaluation, and with the same random numbers and a flip after them."""

    def __init__(self, cfg, split):
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
        self.mappers = PoseDatasetMapper(**options), PoseDatasetMapper(**mirroring)

    def make(self, index, seed):
        """The sample of `records[index]` and its mirror image, the same for the same index and seed."""
        pair = []
        for mapper in self.mappers:
            np.random.seed((seed + index) % 2**32)  # Detectron2 samples from numpy's global generator
            pair.append(mapper(self.records[index]))
        return pair

    def draw(self, sample):
        """Draw boxes, limbs and keypoints of a mapper output: (h, w, 3) uint8 RGB."""
        image = sample["image"].permute(1, 2, 0).numpy()
        image = np.ascontiguousarray(image[:, :, ::-1] if self.image_format == "BGR" else image)
        return draw_poses(image, sample["instances"], self.skeleton)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the config of the training run")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--number", type=int, default=16, metavar="N", help="samples to draw (default 16)")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="test: as in evaluation")
    parser.add_argument("--seed", type=int, default=0, help="of the selection and the augmentation (default 0)")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)
    if args.number < 1 or args.seed < 0:
        parser.error("--number must be at least 1 and --seed at least 0")

    maker = SampleMaker(setup_config(args.config_file, args.opts), args.split)
    chosen = np.random.default_rng(args.seed).permutation(len(maker.records))[: args.number].tolist()

    def sheets():
        for count, index in enumerate(tqdm(chosen, unit="sample", disable=None), start=1):
            samples, name = maker.make(index, args.seed), Path(maker.records[index]["file_name"])
            title = f"{name.name}: {len(samples[0]['instances'])} persons"
            yield f"{count:03d}_{name.stem}.png", title, [maker.draw(sample) for sample in samples]

    write_sheets(sheets(), args.output, "samples.png", ("sample: left blue, right orange", "mirrored"))
    print(f"{len(chosen)} samples of {len(maker.records)} images are in {args.output}; see samples.png")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
