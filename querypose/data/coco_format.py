"""Reading COCO-format files: their keypoint category, and the first fault in them, told in one sentence."""

import functools
import json
import math
import os
import re
from dataclasses import dataclass

from querypose.errors import UserError

_LONGEST_SIDE = 1_000_000  # pixels of an image: more are a mistake


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
    except RecursionError as error:
        raise UserError(f"the annotation file {path} is nested too deeply for COCO's format; write it anew") from error
    except ValueError as error:
        raise UserError(f"the annotation file {path} is not valid JSON ({error}); write it anew") from error
    if not isinstance(content, dict) or "images" not in content:
        raise UserError(f"the file {path} is not in COCO format: it needs an object with a list 'images'")
    for key in ("images", "categories", "annotations"):
        entries = content.setdefault(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"the file {path} is not in COCO format: '{key}' must be a list of objects")
    for image in content["images"]:
        name = image.get("file_name", "")
        if not isinstance(name, str) or leaves_folder(name):
            raise UserError(
                f"the file {path} names the image {shown(name)}; file names must be paths within the image folder, "
                "without a leading / and without .."
            )
    return content


def leaves_folder(name):
    """Return whether a file name of an annotation file could lie outside of the folder that it is looked for in.

    Annotation files come from others: an absolute path or one with `..` would have any file of this machine read as an
    image, and by the programs that copy images, written.
    """
    parts = re.split(r"[/\\]", name)
    return bool(re.match(r"[/\\]|[A-Za-z]:", name)) or ".." in parts or "\0" in name


def shown(value):
    """Return a value of a file as a short text, for errors."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + ".."


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
            raise UserError(f"the keypoint category in {path} has no integer 'id'; give it one")
        names = with_keypoints[0]["keypoints"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"the keypoint category in {path} has 'keypoints' {shown(names)}; give a list of names")
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
    except (TypeError, OverflowError):
        return False


def _image_problem(content, path):
    """Return a sentence about the first faulty image, or None."""
    image_ids = set()
    for image in content["images"]:
        missing = [key for key in ("id", "file_name", "width", "height") if key not in image]
        if missing:
            return f"an image in {path} has no '{missing[0]}': {shown(image.get('file_name', image))}; add it"
        title = f"the image {shown(image['file_name'])} in {path}"
        if not _is_id(image["id"]):
            return f"{title} has the id {shown(image['id'])}; ids must be whole numbers or text"
        for key in ("width", "height"):
            if not isinstance(image[key], int | float) or not 1 <= image[key] <= _LONGEST_SIDE:
                return f"{title} has the {key} {shown(image[key])}; it must be a number of pixels"
        if image["id"] in image_ids:
            return f"the image id {image['id']} occurs twice in {path}; ids must be distinct"
        image_ids.add(image["id"])
    return None


def _annotation_problem(content, category, path):
    """Return a sentence about the first annotation that would stop or spoil training, or None."""
    num_keypoints = len(category["keypoints"]) if category else 0
    category_ids = [entry.get("id") for entry in content["categories"]]
    annotation_ids = set()
    for annotation in content["annotations"]:
        missing = [key for key in ("id", "image_id", "category_id", "bbox") if key not in annotation]
        if missing:
            return f"the annotation {shown(annotation.get('id', annotation))} in {path} has no '{missing[0]}'; add it"
        title = f"the annotation {shown(annotation['id'])} in {path}"
        for key in ("id", "image_id", "category_id"):
            if not _is_id(annotation[key]):
                return f"{title} has the {key} {shown(annotation[key])}; ids must be whole numbers or text"
        if annotation["category_id"] not in category_ids:
            return f"{title} has the category_id {annotation['category_id']!r}, which no category has; add it"
        if annotation["id"] in annotation_ids:
            return f"{title} occurs twice; annotation ids must be distinct"
        annotation_ids.add(annotation["id"])
        if annotation.get("ignore"):
            return f"{title} has 'ignore' set, which is not supported; mark regions to ignore by 'iscrowd'"
        box = annotation["bbox"]
        if not isinstance(box, list) or not are_finite_numbers(box) or len(box) != 4:
            return f"{title} has the box {shown(box)} instead of four numbers x, y, width, height"
        if problem := _segmentation_problem(annotation.get("segmentation")):
            return f"{title} {problem}"
        keypoints = annotation.get("keypoints")
        if category is None or annotation["category_id"] != category["id"] or not keypoints:
            continue
        if not isinstance(keypoints, list) or not are_finite_numbers(keypoints):
            return f"{title} has keypoints that are not finite numbers; correct them, or leave the annotation out"
        if len(keypoints) != 3 * num_keypoints:
            return (
                f"{title} has {len(keypoints)} keypoint values instead of {3 * num_keypoints}, "
                f"which are x, y, v for each of {num_keypoints} keypoints"
            )
    return None


def _segmentation_problem(segmentation):
    """Return what is wrong with an annotation's polygons or run lengths, which Detectron2 reads with the rest."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        # numbers are not looked at: they are of no use here
        polygons = all(isinstance(polygon, list) for polygon in segmentation)
        return None if polygons else "has a segmentation that is no list of polygons; correct it, or leave it out"
    counts, size = (segmentation.get(key) if isinstance(segmentation, dict) else None for key in ("counts", "size"))
    whole = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
    if isinstance(counts, list):
        # pycocotools' C code believes what it is told
        whole = whole and all(isinstance(count, int) and count >= 0 for count in counts)
        whole = whole and sum(counts) == size[0] * size[1]
    elif not isinstance(counts, str):
        whole = False
    return None if whole else "has a segmentation whose run lengths do not fit its size; correct it, or leave it out"


def _is_id(value):
    return isinstance(value, int | str) and not isinstance(value, bool)
