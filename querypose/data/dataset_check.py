"""A walk over a COCO-format data set: everything that is wrong with it, counted, with an example of each."""

import hashlib
import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from querypose.data.coco_format import are_finite_numbers, keypoint_category, load_coco_format
from querypose.image_files import ImageFileError, open_image, to_rgb

PROBLEMS = {
    "missing": "images that are not there",
    "unreadable": "images that cannot be read",
    "size": "images whose annotated size is not that of the picture",
    "image entry": "images without id, file_name, width or height",
    "image id": "image ids that occur twice",
    "file name": "images listed twice",
    "picture": "pictures that are the same as another's",
    "annotation entry": "annotations with missing or malformed values",
    "annotation id": "annotation ids that occur twice",
    "annotation": "annotations that are the same as another's",
    "unknown": "annotations of an unknown image or category",
    "keypoint outside": "annotations with labelled keypoints outside their image",
    "box outside": "annotations with boxes that are empty or outside their image",
    "category": "categories without annotations",
}
"""The kinds of problems, and how they are told."""

_ORIENTATION_TAG, _TRANSPOSED = 0x0112, (5, 6, 7, 8)
_NUM_WORKERS = 4
_TOLERANCE = 1  # pixels by which a keypoint or box may lie outside: annotators' tools round


@dataclass
class DatasetReport:
    """What a walk over a data set found.

    Attributes:
        name: of the data set.
        counts: number of images, annotations, persons with keypoints, images without annotations.
        problems: by kind (see `PROBLEMS`) how often.
        examples: by kind the first one, in words.
        histograms: by title the values to draw: image sides and person sizes in pixels, persons per image, labelled
            keypoints per person.
        labelled: by keypoint name how many are labelled.
        digests: digest of each picture's file, with its path.
    """

    name: str
    counts: dict = field(default_factory=dict)
    problems: Counter = field(default_factory=Counter)
    examples: dict = field(default_factory=dict)
    histograms: dict = field(default_factory=dict)
    labelled: dict = field(default_factory=dict)
    digests: dict = field(default_factory=dict)

    def add(self, kind, example):
        """Count a problem of one of `PROBLEMS`."""
        self.problems[kind] += 1
        self.examples.setdefault(kind, str(example))

    def to_dict(self):
        """Return it for JSON, without the values of the histograms."""
        problems = {kind: {"count": n, "example": self.examples[kind]} for kind, n in self.problems.items()}
        return {"name": self.name, **self.counts, "labelled": self.labelled, "problems": problems}


def check_dataset(json_file, image_root, name, *, headers_only=False, known_pictures=None, progress=True):
    """Walk over a data set and return a `DatasetReport`.

    Args:
        json_file, image_root: annotation file and folder of its images.
        name: name of the data set in the report.
        headers_only: look at the headers of the images alone; then cut-off files and equal pictures are not found.
        known_pictures: `digests` of data sets walked before, to find pictures that are in several.
        progress: whether to show a bar on a terminal.

    Raises:
        UserError: if the annotation file cannot be read or is not in COCO's format.
    """
    content = load_coco_format(json_file)
    report = DatasetReport(name)
    sizes = _check_image_entries(content["images"], report)
    _check_pictures(content["images"], Path(image_root), report, headers_only, dict(known_pictures or {}), progress)
    _check_annotations(content, sizes, json_file, report)
    return report


def _check_image_entries(images, report):
    """Return (width, height) by image id."""
    sizes, names = {}, Counter()
    for image in images:
        missing = [key for key in ("id", "file_name", "width", "height") if key not in image]
        numbers = [image.get("width"), image.get("height")]
        if missing or not all(isinstance(number, int | float) and number > 0 for number in numbers):
            report.add("image entry", image.get("file_name", image))
            continue
        if image["id"] in sizes:
            report.add("image id", image["id"])
        sizes[image["id"]] = (image["width"], image["height"])
        names[image["file_name"]] += 1
        if names[image["file_name"]] == 2:
            report.add("file name", image["file_name"])
    report.counts["images"] = len(images)
    report.histograms["image width in pixels"] = [width for width, _ in sizes.values()]
    report.histograms["image height in pixels"] = [height for _, height in sizes.values()]
    return sizes


def _check_pictures(images, image_root, report, headers_only, known, progress):
    images = [image for image in images if "file_name" in image]
    paths = [image_root / str(image["file_name"]) for image in images]
    with ThreadPoolExecutor(_NUM_WORKERS) as pool:
        found = pool.map(lambda path: _look_at(path, headers_only), paths)
        bar = tqdm(found, total=len(paths), desc=report.name, unit="image", disable=None if progress else True)
        for image, path, (size, digest, problem) in zip(images, paths, bar, strict=True):
            if problem:
                kind, reason = problem
                report.add(kind, f"{path}{f' ({reason})' if reason else ''}")
                continue
            annotated = (image.get("width"), image.get("height"))
            if size != annotated:
                report.add("size", f"{path} is {size[0]}x{size[1]}, annotated {annotated[0]}x{annotated[1]}")
            if digest is None:
                continue
            first = known.setdefault(digest, path)
            if first == path:
                report.digests[digest] = path
            else:
                report.add("picture", f"{path} and {first}")


def _look_at(path, headers_only):
    """Return ((width, height) upright, digest or None, None), or (None, None, (kind of problem, reason))."""
    try:
        if headers_only:
            with open_image(path) as image:
                turned = image.getexif().get(_ORIENTATION_TAG) in _TRANSPOSED
                return image.size[::-1] if turned else image.size, None, None
        data = path.read_bytes()
        with open_image(io.BytesIO(data)) as image:
            height, width = to_rgb(image).shape[:2]
        return (width, height), hashlib.blake2b(data, digest_size=16).digest(), None
    except FileNotFoundError:
        return None, None, ("missing", None)
    except (OSError, ImageFileError) as error:
        return None, None, ("unreadable", getattr(error, "strerror", None) or str(error))


def _check_annotations(content, sizes, json_file, report):
    category, _ = keypoint_category(content, json_file)
    names = category["keypoints"] if category else []
    category_ids = {entry.get("id") for entry in content["categories"]}
    labelled = np.zeros(len(names), dtype=int)
    ids, contents, per_image, per_category = set(), set(), Counter(), Counter()
    num_labelled, person_sizes = [], []
    for annotation in content["annotations"]:
        title = f"annotation {annotation.get('id', annotation)}"
        is_person = category is not None and annotation.get("category_id") == category["id"]
        problem = _malformed(annotation, len(names) if is_person else None)
        if problem:
            report.add("annotation entry", f"{title} {problem}")
            continue
        if annotation["id"] in ids:
            report.add("annotation id", annotation["id"])
        ids.add(annotation["id"])
        if annotation["image_id"] not in sizes or annotation["category_id"] not in category_ids:
            report.add("unknown", title)
            continue
        keypoints = annotation.get("keypoints") or []
        same = (annotation["image_id"], annotation["category_id"], tuple(annotation["bbox"]), tuple(keypoints))
        if same in contents:
            report.add("annotation", f"{title} of image {annotation['image_id']}")
        contents.add(same)
        per_image[annotation["image_id"]] += 1
        per_category[annotation["category_id"]] += 1
        _check_places(annotation, keypoints if is_person else [], sizes[annotation["image_id"]], title, report)
        if is_person and not annotation.get("iscrowd"):
            flags = np.array(keypoints[2::3]) > 0
            if flags.any():
                labelled += flags
                num_labelled.append(int(flags.sum()))
            width, height = annotation["bbox"][2:]
            person_sizes.append(max(width * height, 0) ** 0.5)
    for entry in content["categories"]:
        if not per_category[entry.get("id")]:
            report.add("category", entry.get("name", entry))
    report.counts |= {
        "annotations": len(content["annotations"]),
        "persons with keypoints": len(num_labelled),
        "images without annotations": len(sizes) - len(per_image),
    }
    report.labelled = dict(zip(names, labelled.tolist(), strict=True))
    report.histograms |= {
        "annotations per image": [per_image[image_id] for image_id in sizes],
        "size of persons in pixels (root of the box's area)": person_sizes,
        "labelled keypoints per person": num_labelled,
    }


def _malformed(annotation, num_keypoints):
    """Return what is wrong with the values of an annotation, or None; keypoints count if their number is given."""
    missing = [key for key in ("id", "image_id", "category_id", "bbox") if key not in annotation]
    if missing:
        return f"has no {missing[0]!r}"
    if not all(isinstance(annotation[key], int | str) for key in ("id", "image_id", "category_id")):
        return "has an id that is neither a number nor a word"
    box = annotation["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not are_finite_numbers(box):
        return f"has the box {box!r}"
    keypoints = annotation.get("keypoints")
    if num_keypoints is None or not keypoints:
        return None
    if not isinstance(keypoints, list) or not are_finite_numbers(keypoints):
        return "has keypoints that are not finite numbers"
    if len(keypoints) != 3 * num_keypoints:
        return f"has {len(keypoints)} keypoint values instead of {3 * num_keypoints}"
    return None


def _check_places(annotation, keypoints, size, title, report):
    (width, height), tolerance = size, _TOLERANCE
    for x, y, v in zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=True):
        if v > 0 and not (-tolerance <= x <= width + tolerance and -tolerance <= y <= height + tolerance):
            report.add("keypoint outside", f"{title}: ({x}, {y}) in an image of {width}x{height}")
            break
    left, top, box_width, box_height = annotation["bbox"]
    inside = left >= -tolerance and top >= -tolerance
    inside &= left + box_width <= width + tolerance and top + box_height <= height + tolerance
    if box_width <= 0 or box_height <= 0 or not inside:
        report.add("box outside", f"{title}: {annotation['bbox']} in an image of {width}x{height}")
