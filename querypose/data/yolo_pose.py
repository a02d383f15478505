"""Data sets in the YOLO-pose layout (`data.yaml`, a text file of labels for each image) as COCO-format files."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from iopath.common.file_io import get_cache_dir

from querypose.atomic_io import whole_file
from querypose.errors import UserError
from querypose.image_io import UnreadableImageError, image_endings, open_image, upright_size
from querypose.skeleton import flip_pairs_by_name


def split_yolo_name(name: str) -> tuple[str, str] | None:
    """(FILE.yaml, SPLIT) of `FILE.yaml@SPLIT`; None for another name."""
    match = re.fullmatch(r"(.+\.ya?ml)@(\w+)", name)
    return (match[1], match[2]) if match else None


def write_coco_file(data_yaml: Path, split: str) -> tuple[Path, Path]:
    """Write a split as a COCO-format file in iopath's cache folder; return it and the folder of its images.

    Boxes and keypoints of a fraction of the image become pixels. Keypoints at (0, 0) or outside of the image are not
    labeled; others are visible where the file gives no visibility.
    """
    try:
        description = yaml.safe_load(_text(data_yaml))
    except yaml.YAMLError as error:
        raise UserError(f"{data_yaml} cannot be read: {error}") from error
    shape = description.get("kpt_shape") if isinstance(description, dict) else None
    if not isinstance(shape, list) or list(map(type, shape)) != [int, int] or shape[0] < 1 or shape[1] not in (2, 3):
        raise UserError(f"{data_yaml} is not a YOLO-pose data set: it needs kpt_shape: [keypoints, 2 or 3]")
    paths = _images(description, data_yaml, split)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    annotations: list[dict[str, Any]] = []
    images, classes = [], set()
    for number, path in enumerate(paths, 1):
        try:
            with open_image(path) as image:
                width, height = upright_size(image)
        except UnreadableImageError:  # reported, or skipped, where its pixels are needed, as one of a COCO-format file
            width, height = 1, 1
        images.append({"id": number, "file_name": str(path.relative_to(root)), "width": width, "height": height})
        for class_id, person in _persons(path, shape, width, height):
            classes.add(class_id)
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, **person})
    if len(classes) > 1:
        raise UserError(f"{data_yaml} has labels of the classes {sorted(classes)}; keep one of them")
    category = _category(description, data_yaml, next(iter(classes), 0))
    key = hashlib.sha256(f"{data_yaml.resolve()}@{split}".encode()).hexdigest()[:16]
    file = Path(get_cache_dir()) / "querypose_yolo_pose" / f"{data_yaml.stem}_{split}_{key}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as opened:
        content = {"images": images, "categories": [category], "annotations": annotations}
        opened.write(json.dumps(content).encode())
    return file, root


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # without a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; save it as text in UTF-8") from error


def _images(description: dict[str, Any], data_yaml: Path, split: str) -> list[Path]:
    """The images of a split, from folders and from text files with a path in each line, in order."""
    entries = description.get(split)
    if not entries:
        raise UserError(f"{data_yaml} has no split {split}")
    folder = data_yaml.parent / str(description.get("path") or "")
    folder = folder if folder.is_dir() else data_yaml.parent
    found: set[Path] = set()
    for entry in entries if isinstance(entries, list) else [entries]:
        path = folder / str(entry)
        if not path.exists():
            path = folder / str(entry).removeprefix("../")  # as Roboflow writes it
        if path.is_dir():
            found.update(file for file in path.rglob("*") if file.suffix.lower() in image_endings())
        elif path.is_file():
            found.update(path.parent / line.strip() for line in _text(path).splitlines() if line.strip())
        else:
            raise UserError(f"{data_yaml} names {entry} for the split {split}, but there is no {path}")
    if not found:
        raise UserError(f"the split {split} of {data_yaml} has no images")
    return sorted(Path(os.path.abspath(path)) for path in found)


def _persons(image: Path, shape: list[int], width: int, height: int) -> list[tuple[int, dict[str, Any]]]:
    """(class, {"bbox", "keypoints"}) of each line of an image's labels; none without a file."""
    # the labels of a/images/b.jpg are in a/labels/b.txt
    before, images, after = str(image).rpartition(f"{os.sep}images{os.sep}")
    labels = (Path(f"{before}{os.sep}labels{os.sep}{after}") if images else image).with_suffix(".txt")
    lines = _text(labels).splitlines() if labels.is_file() else []
    persons = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = np.array(line.split(), dtype=float)
        except ValueError as error:
            raise UserError(f"{labels}, line {number}: {error}") from error
        if len(values) != (needed := 5 + shape[0] * shape[1]):
            raise UserError(f"{labels}, line {number}: {len(values)} numbers, but kpt_shape needs {needed}")
        if not np.isfinite(values).all() or values[1:5].max() > 2:
            raise UserError(f"{labels}, line {number}: boxes and keypoints must be fractions of the image, not pixels")
        x, y, w, h = values[1:5].tolist()
        keypoints = np.full((shape[0], 3), 2.0)
        keypoints[:, : shape[1]] = values[5:].reshape(shape)
        places = keypoints[:, :2]
        labeled = (keypoints[:, 2] > 0) & ((places >= 0) & (places <= 1)).all(axis=1) & places.any(axis=1)
        keypoints = np.where(labeled[:, None], keypoints * [width, height, 1], 0)
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        persons.append((int(values[0]), {"bbox": box, "keypoints": keypoints.ravel().tolist()}))
    return persons


def _category(description: dict[str, Any], data_yaml: Path, class_id: int) -> dict[str, Any]:
    """COCO's category: names of `kpt_names`, pairs of `flip_idx`."""
    count = description["kpt_shape"][0]
    names, flip, classes = map(description.get, ("kpt_names", "flip_idx", "names"))
    if not names:
        is_coco = count == len(COCO_PERSON_KEYPOINT_NAMES)
        names = list(COCO_PERSON_KEYPOINT_NAMES) if is_coco else [f"keypoint_{i}" for i in range(count)]
    elif isinstance(names, dict):
        names = names.get(class_id)
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise UserError(f"kpt_names of {data_yaml} must be {count} names for the class {class_id}: {{0: [..]}} or [..]")
    if not flip:
        pairs = flip_pairs_by_name(names)
    else:
        try:
            are_pairs = [flip[i] for i in flip] == list(range(count))
        except (IndexError, TypeError, KeyError):
            are_pairs = False
        if not are_pairs:
            raise UserError(f"flip_idx of {data_yaml} must exchange pairs of the indices 0 to {count - 1}")
        pairs = tuple((names[i], names[j]) for i, j in enumerate(flip) if i < j)
    classes = dict(enumerate(classes)) if isinstance(classes, list) else classes
    name = classes.get(class_id) if isinstance(classes, dict) else None
    return {"id": 1, "name": str(name or "person"), "keypoints": names, "flip_pairs": pairs}
