"""The file that COCO's server takes for test-dev: written from results, and checked."""

import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from querypose.data.coco_format import are_finite_numbers
from querypose.errors import UserError

MAX_POSES = 20
"""Poses of an image that the server evaluates: the best by score."""

_COORDINATE_DECIMALS = 2  # pixels
_KEYS = {"image_id", "category_id", "keypoints", "score"}


def submission_name(split: str, name: str) -> str:
    """Return the file name without its ending, `person_keypoints_[split]_[name]_results`.

    Args:
        split: for example "test-dev2017" or "val2017".
        name: of the algorithm: letters, digits, "-", "_" and ".".
    """
    if not re.fullmatch(r"[\w.-]+", name, flags=re.ASCII):
        raise UserError(f"the submission's name is {name!r}; use letters, digits, '-', '_' and '.' only")
    return f"person_keypoints_{split}_{name}_results"


def write_submission(results: list[dict[str, Any]], folder: str | os.PathLike[str], split: str, name: str) -> Path:
    """Write the zip file with one JSON file in it, both named `submission_name`, and return its path.

    Of each image the 20 best poses are written, which are those that count, with keypoints to a hundredth of a pixel.
    Boxes are left out: the server would take the area of a box for the person's.

    Args:
        results: list of COCO-format results with `keypoints`.
        folder: where to write; made if it does not exist.
        split, name: as of `submission_name`.
    """
    stem = submission_name(split, name)
    by_image: dict[int, list[dict[str, Any]]] = {}
    for result in results:
        by_image.setdefault(result["image_id"], []).append(result)
    poses = [
        {
            "image_id": pose["image_id"],
            "category_id": pose["category_id"],
            "keypoints": [round(value, _COORDINATE_DECIMALS) for value in pose["keypoints"]],
            "score": round(pose["score"], 6),
        }
        for image_id in sorted(by_image)
        for pose in sorted(by_image[image_id], key=lambda pose: -pose["score"])[:MAX_POSES]
    ]
    path = Path(folder) / f"{stem}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{stem}.json", json.dumps(poses, separators=(",", ":")))
    return path


def check_submission(
    path: str | os.PathLike[str], image_ids: Iterable[int | str], num_keypoints: int = 17, category_id: int | str = 1
) -> None:
    """Check a submission as the server would: its names, and every entry's keys, types and lengths.

    Args:
        path: the zip file.
        image_ids: ids of the images of the test set.
        num_keypoints, category_id: what an entry must hold.

    Raises:
        UserError: says what is wrong.
    """
    path = Path(path)
    if not re.fullmatch(r"person_keypoints_(val|test-dev|test)\d{4}_[\w.-]+_results\.zip", path.name):
        raise UserError(f"the submission {path.name} must be named person_keypoints_[split]_[algorithm]_results.zip")
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            poses = json.loads(file.read(f"{path.stem}.json")) if names == [f"{path.stem}.json"] else None
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"the submission {path} cannot be read: {error}") from error
    if names != [f"{path.stem}.json"]:
        raise UserError(f"the submission {path} must hold {path.stem}.json alone, but has {names}")
    if not isinstance(poses, list):
        raise UserError(f"the submission {path} must hold a list of poses")
    known = set(image_ids)
    for number, pose in enumerate(poses):
        problem = _problem_of_pose(pose, known, num_keypoints, category_id)
        if problem:
            raise UserError(f"pose {number} of the submission {path} {problem}")
    (image_id, most), *_ = Counter(pose["image_id"] for pose in poses).most_common(1) or [(None, 0)]
    if most > MAX_POSES:
        raise UserError(f"the submission {path} has more than {MAX_POSES} poses of the image {image_id}")


def _problem_of_pose(pose: Any, image_ids: set[int | str], num_keypoints: int, category_id: int | str) -> str | None:
    if not isinstance(pose, dict) or pose.keys() != _KEYS:
        return f"must have the keys {', '.join(sorted(_KEYS))} and no other"
    if type(pose["image_id"]) is not int or pose["image_id"] not in image_ids:
        return f"is of the image {pose['image_id']!r}, which is not in the test set"
    if pose["category_id"] != category_id:
        return f"has the category_id {pose['category_id']!r} instead of {category_id}"
    keypoints = pose["keypoints"]
    if not isinstance(keypoints, list) or len(keypoints) != 3 * num_keypoints:
        return f"needs {3 * num_keypoints} keypoint values"
    return None if are_finite_numbers([*keypoints, pose["score"]]) else "holds values that are not finite numbers"
