"""The file that COCO's server takes for test-dev."""

import json
import os
import re
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from querypose.errors import UserError

MAX_POSES = 20
"""Poses of an image that the server evaluates: the best by score."""


def submission_name(split: str, name: str) -> str:
    """Return the file name without its ending, `person_keypoints_[split]_[name]_results`.

    split: for example "test-dev2017". name: of the algorithm: letters, digits, "-", "_" and ".".
    """
    if not re.fullmatch(r"[\w.-]+", name, flags=re.ASCII):
        raise UserError(f"the submission's name is {name!r}; use letters, digits, '-', '_' and '.' only")
    return f"person_keypoints_{split}_{name}_results"


def write_submission(results: list[dict[str, Any]], folder: str | os.PathLike[str], split: str, name: str) -> Path:
    """Write the zip file with one JSON file in it, both named `submission_name`, and return its path.

    Of each image the 20 best poses are written, which are those that count, with keypoints to a hundredth of a pixel.
    Boxes are left out: the server would take the area of a box for the person's.
    """
    stem = submission_name(split, name)
    by_image: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    poses = [
        {
            "image_id": pose["image_id"],
            "category_id": pose["category_id"],
            "keypoints": [round(value, 2) for value in pose["keypoints"]],
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
