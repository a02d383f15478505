"""A check of a whole COCO-format data set: everything that is wrong with it, by kind."""

import hashlib
import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from querypose.data.annotations import NO_SIZE, UNKNOWN_IMAGE, KeypointAnnotations, image_path, read_annotations
from querypose.data.coco_keypoints import annotation_file, resolve_dataset
from querypose.image_io import UnreadableImageError, open_image, pil_to_rgb, upright_size
from querypose.skeleton import Skeleton

PROBLEMS = {
    "missing": "images that do not exist",
    "unreadable": "images that cannot be read",
    "size": "images whose annotated size is not that of the file",
    "image entry": "images without id, file_name, width or height",
    "image id": "image ids that occur twice",
    "picture": "images that are the same as another one, or listed twice",
    "annotation entry": "annotations with missing or malformed values",
    "annotation": "annotations that are the same as another one",
    UNKNOWN_IMAGE: "persons left out: of an unknown image",
    NO_SIZE: "persons left out: box without size",
    "keypoint outside": "persons with labeled keypoints outside their image",
    "box outside": "persons with boxes outside their image",
    "no person": "files of which no person can be used",
}
"""The kinds of problems, and their names in the report."""

_TOLERANCE = 1  # pixels by which a keypoint or box may lie outside: annotation tools round


@dataclass
class DatasetReport:
    """Result of a check."""

    name: str
    flip_warning: str | None  # of the skeleton
    summary: str = ""  # how many persons are used, and what is left out or repaired
    counts: dict[str, int] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # in words, by kind
    histograms: dict[str, list[float]] = field(default_factory=dict)  # values by title
    labeled: dict[str, int] = field(default_factory=dict)  # numbers by keypoint name

    def add(self, kind: str, problem: str) -> None:
        self.problems[kind].append(problem)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, without the values of the histograms."""
        problems = {kind: {"count": len(found), "example": found[0]} for kind, found in self.problems.items()}
        head = {"name": self.name, "summary": self.summary, **self.counts}
        return {**head, "labelled": self.labeled, "problems": problems}


def check_dataset(name: str, *, headers_only: bool = False, pictures: dict[bytes, Path] | None = None) -> DatasetReport:
    """Check a data set, as of `resolve_dataset`, by the rules of `normalize`.

    headers_only: do not read whole images; then truncated files and equal images are not found. pictures: a path
    of each image of data sets checked before, by the digest of the file, to which these are added.
    """
    pictures = {} if pictures is None else pictures
    metadata = MetadataCatalog.get(resolve_dataset(name))
    report = DatasetReport(name, flip_warning=Skeleton.from_metadata(metadata).flip_warning())
    annotations = read_annotations(annotation_file(name), on_problem=report.add)
    paths = [image_path(metadata.image_root, image["file_name"]) for image in annotations.images]
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = pool.map(partial(_look_at, headers_only=headers_only), paths)
        bar = tqdm(found, total=len(paths), desc=report.name, unit="image", disable=None)
        for image, path, result in zip(annotations.images, paths, bar, strict=True):
            if isinstance(result, UnreadableImageError):
                report.add("unreadable" if os.path.exists(path) else "missing", str(result))
                continue
            width, height, digest = result
            if (width, height) != (image["width"], image["height"]):
                report.add("size", f"{path} is {width}x{height}, annotated {image['width']}x{image['height']}")
            if digest in pictures:
                report.add("picture", f"{path} and {pictures[digest]}")
            else:
                pictures[digest] = path
    _check_persons(annotations, report)
    return report


def _look_at(path: Path, headers_only: bool) -> tuple[int, int, bytes] | UnreadableImageError:
    """Width and height after rotation by EXIF, and the digest of a wholly read file (else its path), or the fault."""
    try:
        with open_image(path) as image:
            if headers_only:
                return *upright_size(image), os.fsencode(path)
            height, width = pil_to_rgb(image).shape[:2]
            return width, height, hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except UnreadableImageError as error:
        return error


def _check_persons(annotations: KeypointAnnotations, report: DatasetReport) -> None:
    report.summary = annotations.describe()
    if not annotations.num_annotations:
        report.add("no person", report.summary)
    report.problems |= {reason: titles for reason, titles in annotations.left_out.items() if reason in PROBLEMS}
    sizes = {image["id"]: (image["width"], image["height"]) for image in annotations.images}
    seen: set[tuple[Any, ...]] = set()
    for person in annotations.persons:
        title = f"annotation {person['source_id']} of image {person['image_id']}"
        same = (person["image_id"], tuple(person["bbox"]), tuple(person["keypoints"]))
        if same in seen:
            report.add("annotation", title)
        seen.add(same)
        width, height = sizes[person["image_id"]]
        keypoints = np.array(person["keypoints"], dtype=float).reshape(-1, 3)
        places = keypoints[keypoints[:, 2] > 0, :2]
        outside = ((places < -_TOLERANCE) | (places > np.array([width, height]) + _TOLERANCE)).any(axis=1)
        if outside.any():
            x, y = places[outside][0].tolist()
            report.add("keypoint outside", f"{title}: ({x:g}, {y:g}) in an image of {width}x{height}")
        x, y, w, h = person["bbox"]
        if min(x, y) < -_TOLERANCE or x + w > width + _TOLERANCE or y + h > height + _TOLERANCE:
            report.add("box outside", f"{title}: {person['bbox']} in an image of {width}x{height}")

    used = [person for person in annotations.persons if not person["iscrowd"]]
    names = annotations.category["keypoints"] if annotations.category else []
    report.labeled = {name: sum(p["keypoints"][3 * i + 2] > 0 for p in used) for i, name in enumerate(names)}
    num_labeled = [person["num_keypoints"] for person in used if person["num_keypoints"]]
    per_image = Counter(person["image_id"] for person in annotations.persons)
    report.counts = {
        "images": len(sizes),
        "annotations": annotations.num_annotations,
        "persons with keypoints": len(num_labeled),
        "images without annotations": len(sizes) - len(per_image),
    }
    report.histograms = {
        "image width in pixels": [width for width, _ in sizes.values()],
        "image height in pixels": [height for _, height in sizes.values()],
        "annotations per image": [per_image[image_id] for image_id in sizes],
        "size of persons in pixels (root of the box's area)": [(p["bbox"][2] * p["bbox"][3]) ** 0.5 for p in used],
        "labeled keypoints per person": num_labeled,
    }
