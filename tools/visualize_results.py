#!/usr/bin/env python3
r"""Draw results in COCO's format beside the ground truth, the worst images first, with a table of their errors.

Examples:
    python tools/visualize_results.py --dataset keypoints_coco_2017_val \
        --results output/inference/coco_instances_results.json --output worst
    python tools/visualize_results.py --dataset mine/val.json@mine/pictures --results results.json --output best \
        --sort best --number 50

Writes OUTPUT/<rank>_<image name>.png, images.png, a sheet of the first 24, and images.csv, a line for each image. Its
error is 1 minus the mean OKS; missed persons (no pose of OKS 0.5) and false positives count as 0.
"""

import argparse
from pathlib import Path

from detectron2.data import MetadataCatalog

from querypose.data.annotations import read_json
from querypose.data.coco_keypoints import resolve_dataset
from querypose.errors import UserError, exit_on_user_error
from querypose.evaluation.coco_results import check_results
from querypose.evaluation.ground_truth import load_ground_truth
from querypose.evaluation.matching import match_poses
from querypose.structures import SCORE_THRESHOLD
from querypose.visualization.result_sheets import write_results


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", required=True, help="a registered data set, or an annotation file FILE.json or FILE.json@IMAGES")
    add("--results", required=True, metavar="JSON", help="results in COCO's format, with keypoints")
    add("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    add("--number", type=int, default=24, metavar="N", help="images to draw (default 24)")
    orders = "which come first; none: as in the file (default worst)"
    add("--sort", choices=("worst", "best", "none"), default="worst", help=orders)
    shown = "leave out poses below it, also from errors (default %(default)s)"
    add("--score-threshold", type=float, default=SCORE_THRESHOLD, help=shown)
    add("--keypoint-threshold", type=float, default=0.0, help="draw no keypoints below it; they still count")
    args = parser.parse_args(arguments)
    if args.number < 1:
        parser.error("--number must be at least 1")

    truth = load_ground_truth(args.dataset)
    results = check_results(read_json(args.results, "results"), truth, ("keypoints",))
    results = [result for result in results if result["score"] >= args.score_threshold]
    image_root = MetadataCatalog.get(resolve_dataset(args.dataset)).image_root
    errors = list(match_poses(truth, results))
    if args.sort != "none":
        sign = 1 if args.sort == "best" else -1
        # images with neither persons nor poses are last
        errors.sort(key=lambda error: (len(error.best_oks) + error.false_positives == 0, sign * error.error))
    limits = {"score_threshold": args.score_threshold, "keypoint_threshold": args.keypoint_threshold}
    failures = write_results(args.output, truth, results, image_root, errors, args.number, **limits)
    if failures:
        raise UserError(f"{len(failures)} images could not be drawn, the others are in {args.output}: {failures[0]}")
    mean = sum(error.error for error in errors) / len(errors)
    persons, found = sum(len(error.best_oks) for error in errors), sum(len(error.pairs) for error in errors)
    print(
        f"{min(args.number, len(errors))} of {len(errors)} images are in {args.output}, all in images.csv; mean error "
        f"{mean:.3f}, {found} of {persons} persons found"
    )


if __name__ == "__main__":
    with exit_on_user_error():
        main()
