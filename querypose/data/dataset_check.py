"""A check of a whole COCO-format data set: everything that is wrong with it, counted, with an example of each."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from querypose.data.annotations import NO_SIZE, UNKNOWN_IMAGE, KeypointAnnotations, normalize
from querypose.data.coco_format import image_path, load_coco_format
from querypose.image_io import UnreadableImageError, open_image, pil_to_rgb, upright_size

PROBLEMS = {
    "missing": "images that do not exist",
    "unreadable": "images that cannot be read",
    "size": "images whose annotated size is not that of the file",
    "image entry": "images without id, file_name, width or height",
    "image id": "image ids that occur twice",
    "file name": "images listed twice",
    "picture": "images that are the same as another one",
    "annotation entry": "annotations with missing or malformed values",
    "annotation": "annotations that are the same as another one",
    UNKNOWN_IMAGE: "persons left out: of an unknown image",
    NO_SIZE: "persons left out: box without size",
    "keypoint outside": "persons with labeled keypoints outside their image",
    "box outside": "persons with boxes outside their image",
    "category": "keypoint categories without annotations",
    "no person": "files of which no person can be used",
}
"""The kinds of problems, and their names in the report."""

_NUM_WORKERS = 4
_TOLERANCE = 1  # pixels by which a keypoint or box may lie outside: annotation tools round


@dataclass
class DatasetReport:
    """Result of a check.

    Attributes:
        name: of the data set.
        summary: a line on how many persons are used, and what is left out or repaired.
        counts: number of images, annotations, persons with keypoints, images without annotations.
        problems: by kind (see `PROBLEMS`) how often.
        examples: by kind the first one, in words.
        histograms: by title the values to draw: image sides and person sizes in pixels, persons per image, labeled
            keypoints per person.
        labeled: by keypoint name how many are labeled.
        digests: digest of each image's file, with its path.
    """

    name: str
    summary: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    histograms: dict[str, list[float]] = field(default_factory=dict)
    labeled: dict[str, int] = field(default_factory=dict)
    digests: dict[bytes, Path] = field(default_factory=dict)

    def add(self, kind: str, example: object) -> None:
        """Count a problem of one of `PROBLEMS`."""
        self.problems[kind] += 1
        self.examples.setdefault(kind, str(example))

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, without the values of the histograms."""
        problems = {kind: {"count": n, "example": self.examples[kind]} for kind, n in self.problems.items()}
        head = {"name": self.name, "summary": self.summary, **self.counts}
        return {**head, "labelled": self.labeled, "problems": problems}


def check_dataset(
    json_file: str | Path,
    image_root: str | Path,
    name: str,
    *,
    headers_only: bool = False,
    known_pictures: Mapping[bytes, Path] | None = None,
) -> DatasetReport:
    """Check a data set by the rules of `normalize` and return a `DatasetReport`.

    Args:
        json_file, image_root: annotation file and folder of its images.
        name: name of the data set in the report.
        headers_only: read only the headers of the images; then truncated files and equal images are not found.
        known_pictures: `digests` of data sets checked before, to find images that are in several.
    """
    report = DatasetReport(name)
    annotations = normalize(load_coco_format(json_file), str(json_file), on_problem=report.add)
    _check_images(annotations, Path(image_root), report, headers_only, dict(known_pictures or {}))
    _check_persons(annotations, report)
    return report


def _check_images(
    annotations: KeypointAnnotations,
    image_root: Path,
    report: DatasetReport,
    headers_only: bool,
    known: dict[bytes, Path],
) -> None:
    images = annotations.images
    for file_name, number in Counter(image["file_name"] for image in images).items():
        if number > 1:
            report.add("file name", file_name)
    report.histograms["image width in pixels"] = [image["width"] for image in images]
    report.histograms["image height in pixels"] = [image["height"] for image in images]
    paths = [image_path(image_root, image["file_name"]) for image in images]
    with ThreadPoolExecutor(_NUM_WORKERS) as pool:
        found = pool.map(lambda path: _look_at(path, headers_only), paths)
        bar = tqdm(found, total=len(paths), desc=report.name, unit="image", disable=None)
        for image, path, result in zip(images, paths, bar, strict=True):
            if isinstance(result, UnreadableImageError):
                report.add("unreadable" if os.path.exists(path) else "missing", result)
                continue
            (width, height), digest = result
            if (width, height) != (image["width"], image["height"]):
                report.add("size", f"{path} is {width}x{height}, annotated {image['width']}x{image['height']}")
            if digest is not None:
                first = known.setdefault(digest, path)
                if first == path:
                    report.digests[digest] = path
                else:
                    report.add("picture", f"{path} and {first}")


def _look_at(path: Path, headers_only: bool) -> tuple[tuple[int, int], bytes | None] | UnreadableImageError:
    """Return (width, height) after rotation by EXIF, and the digest of the file, or what is wrong with it."""
    try:
        with open_image(path) as image:
            if headers_only:
                return upright_size(image), None
            height, width = pil_to_rgb(image).shape[:2]
            return (width, height), hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except UnreadableImageError as error:
        return error


def _check_persons(annotations: KeypointAnnotations, report: DatasetReport) -> None:
    report.summary = annotations.describe()
    for reason in (UNKNOWN_IMAGE, NO_SIZE):
        if annotations.left_out[reason]:
            report.problems[reason] = annotations.left_out[reason]
            report.examples[reason] = annotations.examples[reason]
    if annotations.category and not annotations.num_annotations:
        report.add("category", annotations.category.get("name"))
    if annotations.num_annotations and not annotations.num_used:
        report.add("no person", report.summary)
    sizes = {image["id"]: (image["width"], image["height"]) for image in annotations.images}
    names = annotations.category["keypoints"] if annotations.category else []
    labeled = np.zeros(len(names), dtype=int)
    seen: set[tuple[Any, ...]] = set()
    num_labeled, person_sizes = [], []
    for person in annotations.persons:
        title = f"annotation {person['source_id']} of image {person['image_id']}"
        same = (person["image_id"], tuple(person["bbox"]), tuple(person["keypoints"]))
        if same in seen:
            report.add("annotation", title)
        seen.add(same)
        _check_places(person, sizes[person["image_id"]], title, report)
        if not person["iscrowd"]:
            labeled += np.array(person["keypoints"][2::3], dtype=float) > 0
            num_labeled.append(person["num_keypoints"])
            person_sizes.append((person["bbox"][2] * person["bbox"][3]) ** 0.5)
    per_image = Counter(person["image_id"] for person in annotations.persons)
    num_labeled = [number for number in num_labeled if number]
    report.counts = {
        "images": len(sizes),
        "annotations": annotations.num_annotations,
        "persons with keypoints": len(num_labeled),
        "images without annotations": len(sizes) - len(per_image),
    }
    report.labeled = dict(zip(names, labeled.tolist(), strict=True))
    report.histograms |= {
        "annotations per image": [per_image[image_id] for image_id in sizes],
        "size of persons in pixels (root of the box's area)": person_sizes,
        "labeled keypoints per person": num_labeled,
    }


def _check_places(person: dict[str, Any], size: tuple[int, int], title: str, report: DatasetReport) -> None:
    keypoints = np.array(person["keypoints"], dtype=float).reshape(-1, 3)
    places = keypoints[keypoints[:, 2] > 0, :2]
    outside = ((places < -_TOLERANCE) | (places > np.array(size) + _TOLERANCE)).any(axis=1)
    if outside.any():
        x, y = places[outside][0].tolist()
        report.add("keypoint outside", f"{title}: ({x:g}, {y:g}) in an image of {size[0]}x{size[1]}")
    left, top, width, height = person["bbox"]
    if min(left, top) < -_TOLERANCE or left + width > size[0] + _TOLERANCE or top + height > size[1] + _TOLERANCE:
        report.add("box outside", f"{title}: {person['bbox']} in an image of {size[0]}x{size[1]}")
