"""Reading COCO-format files: their keypoint category, and the first fault in them, told in one sentence."""

import functools
import json
import math
import os
from dataclasses import dataclass

from querypose.errors import UserError


@dataclass(frozen=True)
class KeypointFile:
    """What start-up needs to know of a COCO-format file.

    Attributes:
        path: the file.
        category: the one category with keypoints (dict), or None if no category has any.
        category_id: id of that category; without one that of the category "person", else 1.
        file_names: the images' file names.
        problem: a sentence about the first fault in images or annotations, or None.
    """

    path: str
    category: dict | None
    category_id: int
    file_names: tuple
    problem: str | None

    def require_category(self):
        """Return the category, or raise a `UserError` if there is none."""
        if self.category is None:
            raise UserError(
                f"the file {self.path} has no category with keypoints; use a keypoint file, such as "
                "person_keypoints_train2017.json, or add the names as 'keypoints' to its category"
            )
        return self.category


def read_keypoint_file(path):
    """Read a COCO-format file and return a `KeypointFile`; the last few files read are remembered.

    Raises:
        UserError: if the file is missing, is no COCO-format JSON, or has several categories with keypoints.
    """
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(f"the annotation file {path} cannot be read: {error.strerror}") from error
    return _read_keypoint_file(str(path), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _read_keypoint_file(path, _modified, _size):
    content = load_coco_format(path)
    category, category_id = keypoint_category(content, path)
    return KeypointFile(
        path=path,
        category=category,
        category_id=category_id,
        file_names=tuple(str(image.get("file_name")) for image in content["images"]),
        problem=first_problem(content, category, path),
    )


def load_coco_format(path):
    """Return the content of a COCO-format JSON file: a dict with at least these lists of dicts.

    `images`, and `categories` and `annotations`, which are added, empty, if the file has none.

    Raises:
        UserError: if the file cannot be read or is not in this format.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"the annotation file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"the annotation file {path} is not valid JSON ({error}); write it anew") from error
    if not isinstance(content, dict) or "images" not in content:
        raise UserError(f"the file {path} is not in COCO format: it needs an object with a list 'images'")
    for key in ("images", "categories", "annotations"):
        entries = content.setdefault(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"the file {path} is not in COCO format: '{key}' must be a list of objects")
    return content


def keypoint_category(content, path):
    """Return (category, its id) of the one category with keypoints in `content`, read from `path`.

    Without such a category: (None, id of "person", or 1).
    """
    with_keypoints = [category for category in content["categories"] if category.get("keypoints")]
    if len(with_keypoints) > 1:
        titles = ", ".join(repr(category.get("name")) for category in with_keypoints)
        raise UserError(f"the file {path} has several categories with keypoints ({titles}); keep one of them")
    if with_keypoints:
        if not isinstance(with_keypoints[0].get("id"), int):
            raise UserError(f"the keypoint category in {path} has no integer 'id'")
        return with_keypoints[0], with_keypoints[0]["id"]
    person_ids = [entry.get("id") for entry in content["categories"] if entry.get("name") == "person"]
    return None, person_ids[0] if person_ids else 1


def first_problem(content, category, path):
    """Return a sentence about the first fault in COCO-format `content`, read from `path`, or None.

    Of the annotations' keypoints those of `category` (a dict or None) are looked at.
    """
    return _image_problem(content, path) or _annotation_problem(content, category, path)


def are_finite_numbers(values):
    """Return whether an iterable holds nothing but finite numbers."""
    # One sum instead of a test per value: COCO's training set has 13 million of them.
    try:
        return math.isfinite(sum(values))
    except TypeError:
        return False


def _image_problem(content, path):
    """Return a sentence about the first faulty image, or None."""
    image_ids = set()
    for image in content["images"]:
        missing = [key for key in ("id", "file_name", "width", "height") if key not in image]
        if missing:
            return f"an image in {path} has no '{missing[0]}': {image.get('file_name', image)}"
        if image["id"] in image_ids:
            return f"the image id {image['id']} occurs twice in {path}; ids must be distinct"
        image_ids.add(image["id"])
    return None


def _annotation_problem(content, category, path):
    """Return a sentence about the first annotation that would stop or spoil training, or None."""
    num_keypoints = len(category["keypoints"]) if category else 0
    annotation_ids = set()
    for annotation in content["annotations"]:
        missing = [key for key in ("id", "image_id", "category_id", "bbox") if key not in annotation]
        if missing:
            return f"the annotation {annotation.get('id', annotation)} in {path} has no '{missing[0]}'"
        title = f"the annotation {annotation['id']} in {path}"
        if annotation["id"] in annotation_ids:
            return f"{title} occurs twice; annotation ids must be distinct"
        annotation_ids.add(annotation["id"])
        if annotation.get("ignore"):
            return f"{title} has 'ignore' set, which is not supported; mark regions to ignore by 'iscrowd'"
        if not are_finite_numbers(annotation["bbox"]) or len(annotation["bbox"]) != 4:
            return f"{title} has the box {annotation['bbox']!r} instead of four numbers x, y, width, height"
        keypoints = annotation.get("keypoints")
        if category is None or annotation["category_id"] != category["id"] or not keypoints:
            continue
        if not are_finite_numbers(keypoints):
            return f"{title} has keypoints that are not finite numbers"
        if len(keypoints) != 3 * num_keypoints:
            return (
                f"{title} has {len(keypoints)} keypoint values instead of {3 * num_keypoints}, "
                f"which are x, y, v for each of {num_keypoints} keypoints"
            )
    return None
