#!/usr/bin/env python3
r"""Visualize training samples as the model receives them, augmented, with boxes, keypoints, limbs, beside their flips.

Example:
    python tools/visualize_data.py --config-file configs/querypose_R50.yaml --output samples --number 40 \
        DATASETS.TRAIN "('mine/train.json@mine/pictures',)"

Writes OUTPUT/<number>_<image name>.png and OUTPUT/samples.png, a sheet of the first 24. A person's left is blue and the
right orange in both images: if blue changes sides in the mirrored one, the flip does not exchange left and right.
"""

from pathlib import Path

from querypose.cli import run_tool, tool_parser
from querypose.setup_config import setup_config
from querypose.visualization.sheets import sample_sheets, write_sheets


def main(arguments=None):
    parser = tool_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the config of the training run")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--number", type=int, default=16, metavar="N", help="samples to draw (default 16)")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="test: as in evaluation")
    parser.add_argument("--seed", type=int, default=0, help="of the selection and the augmentation (default 0)")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(arguments)
    if args.number < 1 or args.seed < 0:
        parser.error("--number must be at least 1 and --seed at least 0")

    sheets = sample_sheets(setup_config(args.config_file, args.opts), args.split, args.number, args.seed)
    written = write_sheets(sheets, args.output, "samples.png", ("sample: left blue, right orange", "mirrored"))
    print(f"{written} samples are in {args.output}; see samples.png")


if __name__ == "__main__":
    run_tool(main)
