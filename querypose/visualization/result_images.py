"""Results beside the ground truth, image by image, the worst or the best first."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from querypose.data.coco_format import image_path
from querypose.errors import UserError
from querypose.evaluation.coco_results import check_results
from querypose.evaluation.ground_truth import GroundTruth
from querypose.evaluation.image_errors import ImageError, image_errors
from querypose.image_io import UnreadableImageError, read_image_rgb
from querypose.visualization.contact_sheet import write_sheets
from querypose.visualization.draw_poses import draw_poses
from querypose.visualization.poses import Poses

ORDERS = ("worst", "best", "none")
HEADINGS = ("ground truth", "results")
_COLUMNS = ("rank", "image_id", "file_name", "error", "persons", "found", "false_positives", "mean_oks")


def write_result_images(
    ground_truth: GroundTruth,
    results: list[dict],
    image_root: str | Path,
    folder: Path,
    *,
    number: int,
    order: str = "worst",
    score_threshold: float = 0.3,
    keypoint_threshold: float = 0.0,
) -> list[ImageError]:
    """Draw COCO-format results beside their ground truth and write the table of all images.

    Written are `images.csv`, a line for each image in the order, `<rank>_<image name>.png` of the first `number`, and
    `images.png`, a sheet of the first ones. The folder is created if it does not exist.

    Args:
        image_root: folder of the images.
        order: "worst" or "best", by `ImageError.error`, else that of the file. Of equal errors the file's order
            counts; images with neither persons nor poses are last.
        score_threshold: poses below it are neither drawn nor counted; keypoint_threshold: keypoints below it are not
            drawn, but counted.

    Returns the errors in the order of the table.

    Raises:
        UserError: for results that do not fit, a folder that cannot be written to and, once the others are drawn,
            images that cannot be read.
    """
    results = check_results(results, ground_truth, ("keypoints",))
    results = [result for result in results if result["score"] >= score_threshold]
    errors = sort_errors(image_errors(ground_truth, results), order)
    images = {image["id"]: image["file_name"] for image in ground_truth.content["images"]}
    persons = [person for person in ground_truth.content["annotations"] if not person["iscrowd"]]
    persons_of, results_of = _by_image(persons), _by_image(results)

    def draw(image_id: int | str) -> list[np.ndarray]:
        image, skeleton = read_image_rgb(image_path(image_root, images[image_id])), ground_truth.skeleton
        truth = Poses.from_coco(persons_of[image_id], skeleton.num_keypoints, ground_truth=True)
        found = Poses.from_coco(results_of[image_id], skeleton.num_keypoints, ground_truth=False)
        thresholds: Any = {"score_threshold": score_threshold, "keypoint_threshold": keypoint_threshold}
        return [draw_poses(image, poses, skeleton, **thresholds) for poses in (truth, found)]

    def entries() -> Iterator[tuple[str, str, list[np.ndarray]]]:
        for rank, error in enumerate(tqdm(errors[:number], unit="image", disable=None), start=1):
            name = Path(images[error.image_id])
            title = f"{rank}. {name.name}: {describe(error)}"
            try:
                images_side_by_side = draw(error.image_id)
            except UnreadableImageError as unreadable:
                failures.append(str(unreadable))
                continue
            yield f"{rank:04d}_{name.stem}.png", title, images_side_by_side

    failures: list[str] = []
    write_sheets(entries(), folder, "images.png", HEADINGS)
    _write_table(errors, images, folder / "images.csv")
    if failures:
        raise UserError(f"{len(failures)} images are not drawn, the others are in {folder}; the first: {failures[0]}")
    return errors


def sort_errors(errors: list[ImageError], order: str) -> list[ImageError]:
    """The errors in one of `ORDERS`, see `write_result_images`."""
    if order == "none":
        return errors
    sign = 1 if order == "best" else -1
    return sorted(errors, key=lambda error: (error.persons + error.false_positives == 0, sign * error.error))


def describe(error: ImageError) -> str:
    """A title for an image: error, persons found, false positives."""
    false_positives = f", {error.false_positives} false positives" if error.false_positives else ""
    return f"error {error.error:.2f}, {error.found} of {error.persons} found{false_positives}"


def _by_image(entries: list[dict]) -> defaultdict[int | str, list[dict]]:
    found = defaultdict(list)
    for entry in entries:
        found[entry["image_id"]].append(entry)
    return found


def _write_table(errors: list[ImageError], file_names: dict[int | str, str], path: Path) -> None:
    try:
        with open(path, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(_COLUMNS)
            for rank, error in enumerate(errors, start=1):
                oks = "" if error.mean_oks is None else f"{error.mean_oks:.4f}"
                counts = error.persons, error.found, error.false_positives
                rows.writerow([rank, error.image_id, file_names[error.image_id], f"{error.error:.4f}", *counts, oks])
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --output.") from error
