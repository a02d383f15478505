#!/usr/bin/env python3
r"""Draw results in COCO's format beside the ground truth, the worst images first, with a table of their errors.

Example:
    python tools/visualize_results.py --dataset mine/val.json@mine/pictures --results results.json --output best \
        --sort best --number 50

Writes OUTPUT/<rank>_<image name>.png, images.png, a sheet of the first 24, and images.csv, a line for each image. Its
error is 1 minus the mean OKS; missed persons (no pose of OKS 0.5) and false positives count as 0.
"""

from pathlib import Path

from querypose.cli import run_tool, tool_parser
from querypose.data.annotations import read_json
from querypose.data.coco_keypoints import resolve_dataset
from querypose.evaluation.coco_results import check_results
from querypose.evaluation.ground_truth import load_ground_truth
from querypose.evaluation.matching import match_poses
from querypose.structures import SCORE_THRESHOLD
from querypose.visualization.sheets import result_sheets, write_error_table, write_sheets


def main(arguments=None):
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add("--dataset", required=True, help="a registered data set, or an annotation file FILE.json or FILE.json@IMAGES")
    add("--results", required=True, metavar="JSON", help="results in COCO's format, with keypoints")
    add("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    add("--number", type=int, default=24, metavar="N", help="images to draw (default 24)")
    add("--sort", choices=("worst", "best", "none"), default="worst", help="which come first; none: as in the file")
    add("--score-threshold", type=float, default=SCORE_THRESHOLD, help="leave out poses below it (default %(default)s)")
    args = parser.parse_args(arguments)
    if args.number < 1:
        parser.error("--number must be at least 1")

    from detectron2.data import MetadataCatalog  # after `querypose`, which silences a warning of fvcore's

    truth = load_ground_truth(args.dataset)
    results = check_results(read_json(args.results, "results"), truth, ("keypoints",))
    results = [result for result in results if result["score"] >= args.score_threshold]
    image_root = MetadataCatalog.get(resolve_dataset(args.dataset)).image_root
    errors = list(match_poses(truth, results))
    if args.sort != "none":
        sign = 1 if args.sort == "best" else -1
        # images with neither persons nor poses are last
        errors.sort(key=lambda error: (len(error.best_oks) + error.false_positives == 0, sign * error.error))
    sheets = result_sheets(truth, results, image_root, errors[: args.number])
    written = write_sheets(sheets, args.output, "images.png", ("ground truth", "results"))
    write_error_table(args.output / "images.csv", truth, errors)
    mean = sum(error.error for error in errors) / len(errors)
    persons, found = sum(len(error.best_oks) for error in errors), sum(len(error.pairs) for error in errors)
    print(f"{written} of {len(errors)} images are in {args.output}, all in images.csv")
    print(f"mean error {mean:.3f}, {found} of {persons} persons found")
    return 2 if written < min(args.number, len(errors)) else 0


if __name__ == "__main__":
    run_tool(main)
