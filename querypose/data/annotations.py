"""Reading COCO-format files, for training, evaluation, checks and visualization: the one normalizer of annotations.

Exports of CVAT, Label Studio, Roboflow and scripts differ in details that COCO's tools do not survive. What is clear is
repaired and counted, unusable persons are ignored and counted, and the rest is an error; docs/RELIABILITY.md lists it.
"""

import json
import logging
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from querypose.errors import UserError

logger = logging.getLogger(__name__)

StrPath = str | os.PathLike[str]
Entry = dict[str, Any]

AREA_PER_BOX_AREA = 0.53  # of a person whose area a file does not give; CrowdPose's convention
CROWD, NO_SIZE, UNKNOWN_IMAGE = "crowd", "box without size", "unknown image"  # reasons to leave persons out


@dataclass
class KeypointAnnotations:
    """The images and persons of a COCO-format file, normalized.

    persons: the category's annotations, crowds included: dicts with `id` (1, 2, ..), `source_id` (the file's),
    `image_id`, `category_id`, `bbox` (x, y, width, height, of positive size), `area`, `iscrowd` (0 or 1), `keypoints`
    (x, y, v of each, flat) and `num_keypoints` (labeled ones).
    """

    path: str
    category: Entry | None  # the one with keypoints
    category_id: int | str  # without it that of "person", else 1
    images: list[Entry] = field(default_factory=list)  # with `id` (a number or text), `file_name`, `width`, `height`
    persons: list[Entry] = field(default_factory=list)
    num_annotations: int = 0  # of the category in the file
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # titles of persons by reason
    repaired: Counter[str] = field(default_factory=Counter)  # numbers of values by kind

    @property
    def num_used(self) -> int:
        """Number of persons to train on and to detect: those that are not crowds."""
        return self.num_annotations - sum(map(len, self.left_out.values()))

    def describe(self) -> str:
        """Return what was used, left out and repaired as one line."""
        text = f"{self.path}: {self.num_used} of {self.num_annotations} persons used"
        if self.left_out:
            text += "; left out: " + ", ".join(f"{reason} {len(titles)}" for reason, titles in self.left_out.items())
        if bare := sum(not person["iscrowd"] and not person["num_keypoints"] for person in self.persons):
            text += f"; without keypoints {bare}, which count for boxes only"
        if self.repaired:
            text += "; repaired: " + ", ".join(f"{what} {number}" for what, number in self.repaired.items())
        return text

    def log(self) -> "KeypointAnnotations":
        """Log `describe()` and return self."""
        level = logging.WARNING if self.left_out.keys() - {CROWD} else logging.INFO
        logger.log(level, "%s", self.describe())
        return self


def _refuse(kind: str, sentence: str) -> NoReturn:
    raise UserError(sentence)


def read_annotations(path: StrPath, on_problem: Callable[[str, str], None] = _refuse) -> KeypointAnnotations:
    """Read and normalize a COCO-format file; by default a `UserError` names the first fault that cannot be repaired."""
    return normalize(load_coco_format(path), os.fspath(path), on_problem)


def normalize(content: Entry, path: str, on_problem: Callable[[str, str], None] = _refuse) -> KeypointAnnotations:
    """Normalize the content of the COCO-format file `path`, as of `load_coco_format`; `content` is left as it is.

    on_problem: called with a kind and a sentence for each entry that is left out, and if no person is left.
    """
    result = KeypointAnnotations(path, *keypoint_category(content, path))
    images: dict[str | None, Entry] = {}
    for image in content["images"]:
        key, sides = id_key(image.get("id")), [image.get("width"), image.get("height")]
        name = f"{image.get('file_name', image)!r:.80}"
        are_lengths = all(isinstance(side, int | float) and 1 <= side <= 1e6 for side in sides)  # more are a mistake
        if key is None or "file_name" not in image or not are_lengths:
            needs = "an id (a whole number or text), a file_name, and width and height in pixels"
            on_problem("image entry", f"the image {name} in {path} needs {needs}")
        elif key in images:
            on_problem("image id", f"the image id {key} occurs twice in {path}: {name}")
        else:
            images[key] = image
    result.images = list(images.values())
    categories = {id_key(entry.get("id")) for entry in content["categories"]} - {None}
    for index, annotation in enumerate(content["annotations"]):
        title = f"the annotation {annotation.get('id', f'no. {index}')!r:.80} in {path}"
        try:
            _add_person(result, annotation, images, categories, title)
        except UserError as error:
            on_problem("annotation entry", str(error))
    if result.num_annotations and not result.num_used:
        on_problem("no person", f"{result.describe()}; no person is left, so correct the annotations")
    return result


def _add_person(
    result: KeypointAnnotations, annotation: Entry, images: dict[str | None, Entry], categories: set[Any], title: str
) -> None:
    """Add an annotation to the persons of `result`, count it as left out, or raise a `UserError`."""
    for key in ("image_id", "category_id", "bbox"):
        if key not in annotation:
            raise UserError(f"{title} has no '{key}'; add it")
    category_key, box = id_key(annotation["category_id"]), annotation["bbox"]
    if category_key not in categories:
        raise UserError(f"{title} has the category_id {annotation['category_id']!r}, which no category has; add it")
    if category_key != id_key(result.category_id):
        return
    is_box = isinstance(box, list) and len(box) == 4 and are_finite_numbers(box) and bool not in map(type, box)
    if not is_box or max(map(abs, box)) > 1e9:
        raise UserError(f"{title} has the box {box!r:.80} instead of four numbers up to 1e9: x, y, width, height")
    number = len(result.category["keypoints"]) if result.category else 0
    keypoints = _keypoints(annotation.get("keypoints"), number, title, result.repaired)
    result.num_annotations += 1
    image, (width, height) = images.get(id_key(annotation["image_id"])), box[2:]
    if image is None or width <= 0 or height <= 0:
        result.left_out[UNKNOWN_IMAGE if image is None else NO_SIZE].append(title)
        return
    # "ignore" is what some tools call a region that is not to be scored
    given = annotation.get("iscrowd", 0)
    is_crowd = _flag(given) or _flag(annotation.get("ignore"))
    if not (isinstance(given, int) and given in (0, 1)):
        result.repaired["iscrowd"] += 1
    if is_crowd:
        result.left_out[CROWD].append(title)
    area = annotation.get("area")
    if area is None or isinstance(area, bool) or not are_finite_numbers([area]) or area <= 0:
        area = height * width * AREA_PER_BOX_AREA
        result.repaired["area"] += 1
    person = {"id": len(result.persons) + 1, "source_id": annotation.get("id"), "image_id": image["id"]}
    person |= {"category_id": result.category_id, "iscrowd": int(is_crowd), "bbox": box, "area": area}
    result.persons.append({**person, "keypoints": keypoints, "num_keypoints": sum(v > 0 for v in keypoints[2::3])})


def _flag(value: Any) -> bool:
    """Return whether a value that should be 0 or 1 means 1; null, text and booleans occur."""
    if isinstance(value, str):
        return value.strip().lower() in ("1", "1.0", "true", "yes")
    return isinstance(value, int | float) and are_finite_numbers([value]) and value != 0


def _keypoints(values: Any, number: int, title: str, repaired: Counter[str]) -> list[float]:
    """Return the 3 x `number` values, flat, zeros where an annotation has none, or none labeled (v 0, < 0 or null)."""
    if not number or values is None or values == []:
        return [0] * (3 * number)
    flattened = flat(values)
    if not isinstance(flattened, list) or len(flattened) != 3 * number:
        found = f"{len(flattened)} keypoint values" if isinstance(flattened, list) else f"the keypoints {values!r:.80}"
        raise UserError(f"{title} has {found} instead of a list of {3 * number}, x, y, v for each keypoint")
    if flattened is not values:
        repaired["nested keypoints"] += 1
    if not are_finite_numbers(flattened) or min(flattened[2::3]) < 0:
        flattened = list(flattened)
        for i in range(0, len(flattened), 3):
            v = flattened[i + 2]
            if v is None or (are_finite_numbers([v]) and v <= 0):
                flattened[i : i + 3] = [0, 0, 0]
    if not are_finite_numbers(flattened):
        raise UserError(f"{title} has labeled keypoints that are not finite numbers; correct it, or leave it out")
    return flattened


def read_json(path: StrPath, kind: str) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32; `kind` names it in errors: "annotation file"."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"the {kind} {path} cannot be read: {error.strerror}") from error
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the {kind} {path} is not valid JSON ({error}); export it again, not compressed") from error


def load_coco_format(path: StrPath) -> Entry:
    """Return the content of a COCO-format file, with empty `categories` and `annotations` if it has none.

    Files come from others: images outside their folder would let any file be read and, by programs that copy, written.
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


def image_path(image_root: StrPath, file_name: str) -> Path:
    """Return the path of an image; `\\` in its name, as Windows programs write it, becomes `/` where that exists."""
    path = Path(image_root) / file_name
    other = Path(image_root) / file_name.replace("\\", "/")
    return path if path == other or os.path.exists(path) or not os.path.exists(other) else other


def keypoint_category(content: Entry, path: StrPath) -> tuple[Entry | None, int | str]:
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
