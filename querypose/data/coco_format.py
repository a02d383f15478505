"""Reading COCO-format files: JSON in any Unicode encoding, its three lists, and its category with keypoints."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

from querypose.errors import UserError


def read_json(path: str | os.PathLike[str], kind: str) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32; `kind` names it in errors: "annotation file"."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"the {kind} {path} cannot be read: {error.strerror}") from error
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the {kind} {path} is not valid JSON ({error}); export it again, not compressed") from error


def load_coco_format(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a COCO-format file, with empty `categories` and `annotations` if it has none.

    Files come from others: images outside their folder would let any file of this machine be read and, by the programs
    that copy images, be written.
    """
    content = read_json(path, "annotation file")
    if not isinstance(content, dict) or "images" not in content:
        raise UserError(f"the file {path} is not in COCO format: it needs an object with a list 'images'")
    info = content.get("info")
    if isinstance(info, dict) and info.get("contributor") == "Label Studio":
        advice = "export 'YOLO with Images' instead (docs/OWN_DATA.md)"
        raise UserError(f"Label Studio's {path} merges the keypoints of all persons of an image; {advice}")
    content = {"categories": [], "annotations": [], **content}
    for key in ("images", "categories", "annotations"):
        if not isinstance(content[key], list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise UserError(f"the file {path} is not in COCO format: '{key}' must be a list of objects")
    if not content["images"]:
        raise UserError(f"the file {path} lists no images")
    for image in content["images"]:
        name = image.get("file_name", "")
        parts = re.split(r"[/\\]", str(name))
        if not isinstance(name, str) or re.match(r"[/\\]|[A-Za-z]:", name) or ".." in parts or "\0" in name:
            raise UserError(f"the file {path} names the image {name!r:.80}, which is not within the image folder")
    return content


def image_path(image_root: str | os.PathLike[str], file_name: str) -> Path:
    """Return the path of an image; `\\` in its name, as Windows programs write it, becomes `/` where that exists."""
    path = Path(image_root) / file_name
    other = Path(image_root) / file_name.replace("\\", "/")
    return path if path == other or os.path.exists(path) or not os.path.exists(other) else other


def keypoint_category(content: dict[str, Any], path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, int | str]:
    """Return (category, its id) of the one category with keypoints, of several the one with annotations.

    Without such a category: (None, id of "person", or 1).
    """
    with_keypoints = [category for category in content["categories"] if category.get("keypoints")]
    if len(with_keypoints) > 1:  # a project of an annotation tool has more labels than one export uses
        used = {id_key(annotation.get("category_id")) for annotation in content["annotations"]}
        with_keypoints = [entry for entry in with_keypoints if id_key(entry.get("id")) in used] or with_keypoints
    if len(with_keypoints) > 1:
        titles = ", ".join(repr(category.get("name")) for category in with_keypoints)
        raise UserError(f"the file {path} has several categories with keypoints ({titles}); keep one of them")
    for category in with_keypoints:
        if id_key(category.get("id")) is None or not isinstance(category["keypoints"], list):
            raise UserError(f"the keypoint category in {path} needs an 'id' and a list of names as 'keypoints'")
        return category, category["id"]
    person_ids = [entry["id"] for entry in content["categories"] if entry.get("name") == "person" and "id" in entry]
    return None, person_ids[0] if person_ids else 1


def id_key(value: Any) -> str | None:
    """Return the text by which ids are compared: 7, 7.0 and "7" are the same. None if it is not an id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def are_finite_numbers(values: Any) -> bool:
    """Return whether an iterable holds only finite numbers."""
    # One sum instead of a test per value: COCO's training set has 13 million of them.
    try:
        return math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def flat(values: Any) -> Any:
    """Return a list of lists as one list, such as [[x, y, v], ..]; anything else as it is."""
    if isinstance(values, list) and any(isinstance(value, list) for value in values):
        return [v for value in values for v in (value if isinstance(value, list) else [value])]
    return values
