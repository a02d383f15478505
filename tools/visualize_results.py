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
import csv
from collections import defaultdict
from pathlib import Path

from detectron2.data import MetadataCatalog
from tqdm import tqdm

from querypose.atomic_io import writing
from querypose.data.coco_format import image_path, read_json
from querypose.data.coco_keypoints import resolve_dataset
from querypose.errors import UserError, exit_on_user_error
from querypose.evaluation.coco_results import check_results
from querypose.evaluation.ground_truth import load_ground_truth
from querypose.evaluation.matching import match_poses
from querypose.image_io import UnreadableImageError, read_image_rgb
from querypose.structures import SCORE_THRESHOLD
from querypose.visualization.contact_sheet import write_sheets
from querypose.visualization.draw_poses import coco_fields, draw_poses


def sheets(errors, truth, results, image_root, limits, failures):
    """For each image the file name, the title and the two images of its sheet; one that cannot be read is a failure."""
    names = {image["id"]: image["file_name"] for image in truth.content["images"]}
    persons = [person for person in truth.content["annotations"] if not person["iscrowd"]]
    entries_of = defaultdict(lambda: ([], []))
    for column, entries in enumerate((persons, results)):
        for entry in entries:
            entries_of[entry["image_id"]][column].append(entry)
    for rank, error in enumerate(tqdm(errors, unit="image", disable=None), start=1):
        name = Path(names[error.image_id])
        title = f"{rank}. {name.name}: error {error.error:.2f}, {len(error.pairs)} of {len(error.best_oks)} found"
        if error.false_positives:
            title += f", {error.false_positives} false positives"
        try:
            image = read_image_rgb(image_path(image_root, names[error.image_id]))
        except UnreadableImageError as unreadable:
            failures.append(unreadable)
            continue
        drawn = []
        for entries, is_truth in zip(entries_of[error.image_id], (True, False), strict=True):
            fields = coco_fields(entries, truth.skeleton.num_keypoints, ground_truth=is_truth)
            drawn.append(draw_poses(image, fields, truth.skeleton, **limits))
        yield f"{rank:04d}_{name.stem}.png", title, drawn


def write_table(errors, truth, path):
    names = {image["id"]: image["file_name"] for image in truth.content["images"]}
    with writing(path.parent), open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("rank", "image_id", "file_name", "error", "persons", "found", "false_positives", "mean_oks"))
        for rank, error in enumerate(errors, start=1):
            oks = "" if error.mean_oks is None else f"{error.mean_oks:.4f}"
            counts = len(error.best_oks), len(error.pairs), error.false_positives
            rows.writerow([rank, error.image_id, names[error.image_id], f"{error.error:.4f}", *counts, oks])


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

    truth = load_ground_truth(args.dataset).require_persons()
    results = check_results(read_json(args.results, "results"), truth, ("keypoints",))
    results = [result for result in results if result["score"] >= args.score_threshold]
    image_root = MetadataCatalog.get(resolve_dataset(args.dataset)).image_root
    errors = list(match_poses(truth, results))
    if args.sort != "none":
        sign = 1 if args.sort == "best" else -1
        # images with neither persons nor poses are last
        errors.sort(key=lambda error: (len(error.best_oks) + error.false_positives == 0, sign * error.error))
    limits = {"score_threshold": args.score_threshold, "keypoint_threshold": args.keypoint_threshold}
    failures = []
    drawn = sheets(errors[: args.number], truth, results, image_root, limits, failures)
    write_sheets(drawn, args.output, "images.png", ("ground truth", "results"))
    write_table(errors, truth, args.output / "images.csv")
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
