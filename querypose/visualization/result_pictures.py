"""Results beside the ground truth, image by image, the worst or the best first."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from querypose.errors import UserError
from querypose.evaluation.coco_results import check_results
from querypose.evaluation.ground_truth import GroundTruth
from querypose.evaluation.image_errors import ImageError, image_errors
from querypose.image_io import read_image_rgb
from querypose.visualization.contact_sheet import contact_sheet
from querypose.visualization.draw_poses import Poses, draw_poses

ORDERS = ("worst", "best", "none")
HEADINGS = ("ground truth", "results")
CELL = (400, 320)  # width and height in pixels of a picture on the sheet
SHEET_IMAGES = 24
_COLUMNS = ("rank", "image_id", "file_name", "error", "persons", "found", "surplus", "mean_oks")


def write_result_pictures(
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
    `images.png`, a sheet of the first `SHEET_IMAGES` of them. The folder is made if it is absent.

    Args:
        image_root: folder of the images.
        order: "worst" or "best", by `ImageError.error`, else that of the file. Of equal errors the file's order
            counts; images with neither persons nor poses are last.
        score_threshold: poses below it are neither drawn nor counted; keypoint_threshold: keypoints below it are not
            drawn, but counted.

    Returns the errors in the order of the table.

    Raises:
        UserError: for results that do not fit, images that cannot be read, and a folder that cannot be written to.
    """
    results = check_results(results, ground_truth, ("keypoints",))
    results = [result for result in results if result["score"] >= score_threshold]
    errors = sort_errors(image_errors(ground_truth, results), order)
    drawer = _Drawer(ground_truth, results, Path(image_root), keypoint_threshold)
    rows, titles = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_table(errors, drawer.images, folder / "images.csv")
        for rank, error in enumerate(tqdm(errors[:number], unit="image", disable=None), start=1):
            name = Path(drawer.images[error.image_id]["file_name"])
            pictures = drawer.draw(error.image_id)
            size = pictures[0].shape[1], pictures[0].shape[0]
            title = f"{rank}. {name.name}: {describe(error)}"
            sheet = contact_sheet([pictures], [title], cell_size=size, headings=HEADINGS)
            Image.fromarray(sheet).save(folder / f"{rank:04d}_{name.stem}.png")
            if rank <= SHEET_IMAGES:
                rows.append(drawer.draw(error.image_id, CELL))
                titles.append(title)
        sheet = contact_sheet(rows, titles, columns=2, cell_size=CELL, headings=HEADINGS)
        Image.fromarray(sheet).save(folder / "images.png")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another --output.") from error
    return errors


def sort_errors(errors: list[ImageError], order: str) -> list[ImageError]:
    """The errors in one of `ORDERS`, see `write_result_pictures`."""
    if order == "none":
        return errors
    sign = 1 if order == "best" else -1
    return sorted(errors, key=lambda error: (error.persons + error.surplus == 0, sign * error.error))


def describe(error: ImageError) -> str:
    """A line on an image: error, persons found, surplus poses."""
    surplus = f", {error.surplus} surplus" if error.surplus else ""
    return f"error {error.error:.2f}, {error.found} of {error.persons} found{surplus}"


class _Drawer:
    """Draws an image twice: with its annotations and with its results."""

    def __init__(self, truth: GroundTruth, results: list[dict], image_root: Path, keypoint_threshold: float):
        self.images = {image["id"]: image for image in truth.content["images"]}
        self._skeleton = truth.skeleton
        self._image_root = image_root
        self._keypoint_threshold = keypoint_threshold
        persons = [person for person in truth.content["annotations"] if not person["iscrowd"]]
        self._persons, self._results = _by_image(persons), _by_image(results)

    def draw(self, image_id: int | str, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """size: width and height in which a picture is to fit; None leaves it to `draw_poses`."""
        image = read_image_rgb(self._image_root / self.images[image_id]["file_name"])
        scale = min(size[0] / image.shape[1], size[1] / image.shape[0]) if size else None
        number = self._skeleton.num_keypoints
        truth = coco_poses(self._persons.get(image_id, []), number, ground_truth=True)
        found = coco_poses(self._results.get(image_id, []), number, ground_truth=False)
        options = {"score_threshold": -np.inf, "keypoint_threshold": self._keypoint_threshold, "scale": scale}
        return draw_poses(image, truth, self._skeleton, **options), draw_poses(image, found, self._skeleton, **options)


def coco_poses(entries: list[dict], num_keypoints: int, *, ground_truth: bool) -> Poses:
    """`Poses` of COCO-format annotations or results of one image; boxes if all have one.

    COCO counts pixels' corners from 0, so that keypoints gain the half pixel that Detectron2 adds.
    """
    keypoints = np.array([entry["keypoints"] for entry in entries], dtype=float).reshape(-1, num_keypoints, 3)
    keypoints[..., :2] += 0.5
    boxes = None
    if all("bbox" in entry for entry in entries):
        boxes = np.array([entry["bbox"] for entry in entries], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
    scores = None if ground_truth else np.array([entry["score"] for entry in entries], dtype=float)
    return Poses(keypoints=keypoints, boxes=boxes, scores=scores, ground_truth=ground_truth)


def _by_image(entries: list[dict]) -> dict[int | str, list[dict]]:
    found: dict[int | str, list[dict]] = {}
    for entry in entries:
        found.setdefault(entry["image_id"], []).append(entry)
    return found


def _write_table(errors: list[ImageError], images: dict, path: Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        for rank, error in enumerate(errors, start=1):
            oks = "" if error.mean_oks is None else f"{error.mean_oks:.4f}"
            name = images[error.image_id]["file_name"]
            counts = error.persons, error.found, error.surplus
            rows.writerow([rank, error.image_id, name, f"{error.error:.4f}", *counts, oks])
