#!/usr/bin/env python3
"""Find persons in many images, on all cores, GPUs or machines of a Ray cluster, and write their poses as Parquet.

Examples:
    python tools/predict_dataset.py --input photos more.txt --output poses
    python tools/predict_dataset.py --input images.parquet --column path --output poses --workers 8 --address auto

A row for each image: image, width, height, scores, boxes, keypoints, keypoint_sigmas, error. An interrupted call
resumes with the same arguments.
"""

import os
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from querypose.cli import run_tool, split_overrides, tool_parser
from querypose.dataset_prediction import list_images, make_parts, predict_dataset
from querypose.errors import UserError
from querypose.predictor import PRECISIONS
from querypose.structures import SCORE_THRESHOLD


def main(arguments: list[str] | None = None) -> int:
    parser = tool_parser(__doc__.split("\n")[0], model=True)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATH", help="images, folders, globs, .txt or .parquet lists")
    add("--column", default="image", help="of a .parquet list, with paths (default image)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the Parquet files")
    add("--score-threshold", type=float, default=SCORE_THRESHOLD, help=f"of persons (default {SCORE_THRESHOLD})")
    add("--workers", type=int, help="default: one for each GPU, else for each core")
    add("--threads", type=int, default=1, help="cores of a worker (default 1)")
    add("--images-per-part", type=int, default=64, help="images in a file (default 64)")
    add("--address", help="of a Ray cluster, such as auto (default: one that runs on this machine, or a new one)")
    add("--device", help="cpu, cuda (default: the config's, or cpu without a GPU)")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="of the network")
    args = parser.parse_intermixed_args(arguments)
    args.input, args.opts = split_overrides(args.input, args.opts)
    if not args.input:
        parser.error("--input needs at least one image, folder, glob or list")
    if min(args.threads, args.images_per_part, 1 if args.workers is None else args.workers) < 1:
        raise UserError("--workers, --threads and --images-per-part must be at least 1")

    images = list_images(args.input, args.column)
    args.config_file = args.config_file and os.path.abspath(args.config_file)  # workers run in another folder
    args.opts = [os.path.abspath(value) if os.path.isfile(value) else value for value in args.opts]
    options = {name: getattr(args, name) for name in ("config_file", "precision", "score_threshold", "opts")}
    parts = list(make_parts(images, args.output.resolve(), args.images_per_part, **options))
    options["device"] = args.device
    start, done = time.perf_counter(), Counter()
    with tqdm(total=sum(len(part["images"]) for part in parts), unit="image") as bar:
        for result in predict_dataset(parts, options, args.workers, args.threads, args.address):
            done.update(result)
            bar.update(result["images"])
    seconds, before = time.perf_counter() - start, len(images) - done["images"]
    print(f"{done['images']} of {len(images)} images in {seconds:.1f} s ({before} were done before)", end=", ")
    print(f"{done['persons']} persons, {done['failures']} images could not be used. Poses are in {args.output}")
    return 2 if done["failures"] else 0


if __name__ == "__main__":
    run_tool(main)
