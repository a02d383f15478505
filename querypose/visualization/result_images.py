"""Results beside the ground truth, image by image, the worst or the best first."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from querypose.atomic_io import writing
from querypose.data.coco_format import image_path
from querypose.errors import UserError
from querypose.evaluation.coco_results import check_results
from querypose.evaluation.ground_truth import Entries, GroundTruth
from querypose.evaluation.matching import ImageMatching, match_poses
from querypose.image_io import UnreadableImageError, read_image_rgb
from querypose.visualization.contact_sheet import write_sheets
from querypose.visualization.draw_poses import draw_poses
from querypose.visualization.poses import Poses

ORDERS = ("worst", "best", "none")
_COLUMNS = ("rank", "image_id", "file_name", "error", "persons", "found", "false_positives", "mean_oks")


def write_result_images(
    ground_truth: GroundTruth,
    results: Entries,
    image_root: str | Path,
    folder: Path,
    *,
    number: int,
    order: str,
    score_threshold: float,
    keypoint_threshold: float,
) -> list[ImageMatching]:
    """Draw COCO-format results beside their ground truth and write the table of all images; return their errors.

    Written are `images.csv`, a line for each image in the order (see `sort_errors`), `<rank>_<image name>.png` of the
    first `number`, and `images.png`, a sheet of the first ones. Poses below `score_threshold` are neither drawn nor
    counted, keypoints below `keypoint_threshold` only not drawn.

    Raises `UserError` for results that do not fit, a folder that cannot be written to and, once the others are drawn,
    images that cannot be read.
    """
    results = check_results(results, ground_truth, ("keypoints",))
    results = [result for result in results if result["score"] >= score_threshold]
    errors = sort_errors(list(match_poses(ground_truth, results)), order)
    names = {image["id"]: image["file_name"] for image in ground_truth.content["images"]}
    persons = [person for person in ground_truth.content["annotations"] if not person["iscrowd"]]
    poses_of: defaultdict[int | str, tuple[Entries, Entries]] = defaultdict(lambda: ([], []))
    for column, entries in enumerate((persons, results)):
        for entry in entries:
            poses_of[entry["image_id"]][column].append(entry)
    failures: list[str] = []

    def sheets() -> Iterator[tuple[str, str, list[np.ndarray]]]:
        skeleton = ground_truth.skeleton
        for rank, error in enumerate(tqdm(errors[:number], unit="image", disable=None), start=1):
            name = Path(names[error.image_id])
            title = f"{rank}. {name.name}: error {error.error:.2f}, {error.found} of {error.persons} found"
            if error.false_positives:
                title += f", {error.false_positives} false positives"
            try:
                image = read_image_rgb(image_path(image_root, names[error.image_id]))
            except UnreadableImageError as unreadable:
                failures.append(str(unreadable))
                continue
            limits: Any = {"score_threshold": score_threshold, "keypoint_threshold": keypoint_threshold}
            entries = zip(poses_of[error.image_id], (True, False), strict=True)
            poses = [Poses.from_coco(here, skeleton.num_keypoints, ground_truth=truth) for here, truth in entries]
            yield f"{rank:04d}_{name.stem}.png", title, [draw_poses(image, p, skeleton, **limits) for p in poses]

    write_sheets(sheets(), folder, "images.png", ("ground truth", "results"))
    with writing(folder), open(folder / "images.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        for rank, error in enumerate(errors, start=1):
            oks = "" if error.mean_oks is None else f"{error.mean_oks:.4f}"
            counts = error.persons, error.found, error.false_positives
            rows.writerow([rank, error.image_id, names[error.image_id], f"{error.error:.4f}", *counts, oks])
    if failures:
        raise UserError(f"{len(failures)} images could not be drawn, the others are in {folder}; first: {failures[0]}")
    return errors


def sort_errors(errors: list[ImageMatching], order: str) -> list[ImageMatching]:
    """Sort "worst" or "best" first, images with neither persons nor poses last; "none" keeps the file's order."""
    if order == "none":
        return errors
    sign = 1 if order == "best" else -1
    return sorted(errors, key=lambda error: (error.persons + error.false_positives == 0, sign * error.error))
