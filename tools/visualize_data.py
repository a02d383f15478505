#!/usr/bin/env python3
"""Draw training samples as the model gets them: augmented, with boxes, keypoints and limbs, beside their mirror images.

Examples:
    python tools/visualize_data.py --config-file configs/quickstart.yaml --output samples
    python tools/visualize_data.py --config-file configs/querypose_R50.yaml --output samples --number 40 \
        DATASETS.TRAIN "('mine/train.json@mine/pictures',)"

A person's left is blue and the right orange in both images of a sample: if a person faces you, blue is on your right.
If it changes sides in the mirrored image only, the flip does not exchange left and right.
"""

import argparse
from pathlib import Path

from querypose.errors import exit_on_user_error
from querypose.setup_config import setup_config
from querypose.visualization.training_samples import SPLITS, SampleMaker, write_samples


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="KEY VALUE pairs override the config. Results: OUTPUT/<number>_<image name>.png, each sample beside its "
        "mirror image, and OUTPUT/samples.png, a sheet of the first 24.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the config of the training run")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to write to; created if missing"
    )
    parser.add_argument("--number", type=int, default=16, metavar="N", help="samples to draw (default 16)")
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="training data, or test data as in evaluation (default train)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the selection and the augmentation (default 0)")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)
    if args.number < 1:
        parser.error("--number must be at least 1")
    if args.seed < 0:
        parser.error("--seed must be 0 or more")

    maker = SampleMaker(setup_config(args.config_file, args.opts), args.split)
    number = write_samples(maker, args.output, args.number, args.seed)
    print(f"{number} samples of {len(maker.records)} images are in {args.output}; see samples.png")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
