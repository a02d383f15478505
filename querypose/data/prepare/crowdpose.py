"""From CrowdPose's official files to files that can be trained on: checked, repaired, completed."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from querypose.atomic_io import whole_file
from querypose.data.annotations import AREA_PER_BOX_AREA, NO_SIZE, UNKNOWN_IMAGE, Entry, read_annotations
from querypose.data.coco_format import image_path, load_coco_format
from querypose.data.crowdpose import CROWDPOSE_NAMES, CROWDPOSE_SKELETON, CROWDPOSE_SPLITS
from querypose.errors import UserError
from querypose.image_io import open_image, upright_size

_NUM_COUNTED = 12  # `num_keypoints` counts the first twelve joints: not head and neck
_MARK = "tools/prepare_crowdpose.py"
_CATEGORY = {
    "supercategory": "person", "id": 1, "name": "person", "keypoints": list(CROWDPOSE_NAMES),
    "skeleton": [[i + 1, j + 1] for i, j in CROWDPOSE_SKELETON.limbs],
    "flip_pairs": [list(pair) for pair in CROWDPOSE_SKELETON.flip_pairs],
    "sigmas": list(CROWDPOSE_SKELETON.sigmas),
}  # fmt: skip


def find_official_files(sources: Sequence[str]) -> dict[str, Path]:
    """Return the official files of files and folders, by split."""
    found: dict[str, Path] = {}
    for source in map(Path, sources):
        for file in sorted(source.glob("crowdpose_*.json")) if source.is_dir() else [source]:
            match = re.match(r"crowdpose_(trainval|train|val|test)", file.name)
            if not match or not file.is_file():
                raise UserError(f"{file} is no folder of CrowdPose's json files, nor one named like crowdpose_val.json")
            if match[1] in found:
                raise UserError(f"{found[match[1]]} and {file} are both of the split {match[1]}; name one of them")
            found[match[1]] = file
    if {"train", "val"} <= found.keys():  # of which it is made
        found.pop("trainval", None)
    if not found:
        raise UserError(f"no crowdpose_(train|val|test).json in {', '.join(map(str, sources))}; name the files")
    return {split: found[split] for split in CROWDPOSE_SPLITS if split in found}


def complete(file: Path, image_root: Path, allow_missing: bool) -> tuple[Entry, list[str]]:
    """Return the content of an official file, checked and completed, and what was changed and noticed, in words."""
    annotations = read_annotations(file)
    category = annotations.category
    if category is None or tuple(category["keypoints"]) != CROWDPOSE_NAMES or not annotations.images:
        names = ", ".join(CROWDPOSE_NAMES)
        raise UserError(f"{file} has not CrowdPose's images and 14 keypoints, {names}; use the official files")
    persons_of: dict[int | str, list[Entry]] = {image["id"]: [] for image in annotations.images}
    for person in annotations.persons:
        width, height = person["bbox"][2:]
        person |= {"category_id": 1, "area": AREA_PER_BOX_AREA * width * height}
        person["num_keypoints"] = sum(v > 0 for v in person["keypoints"][2 : 3 * _NUM_COUNTED : 3])
        given = person.pop("source_id")
        person["id"] = person["id"] if given is None else given
        persons_of[person["image_id"]].append(person)

    images, missing, swapped, outside = [], [], 0, 0
    for image in tqdm(annotations.images, desc=f"images of {file.name}", unit="image", disable=None):
        path, persons = image_path(image_root, image["file_name"]), persons_of[image["id"]]
        if not path.exists():
            missing.append(path)
            continue
        size = _size(path, (image["width"], image["height"]), persons, file)
        swapped += size != (image["width"], image["height"])
        outside += _num_outside(persons, size)
        images.append({**image, "width": size[0], "height": size[1]})
    if missing and not (allow_missing and images):
        counts = f"{len(missing)} of the {len(annotations.images)} images of {file} are missing"
        advice = "give their folder by --images, or leave out what is missing by --allow-missing"
        raise UserError(f"{counts}, the first is {missing[0]}; {advice}")
    kept = {image["id"] for image in images}
    no_index = sum(not isinstance(image.get("crowdIndex"), int | float) for image in images)
    notes = {
        "changed: {} skeletons (limbs) corrected": int(category.get("skeleton") != _CATEGORY["skeleton"]),
        f"changed: {{}} persons left out: {NO_SIZE}": len(annotations.left_out[NO_SIZE]),
        f"changed: {{}} persons left out: {UNKNOWN_IMAGE}": len(annotations.left_out[UNKNOWN_IMAGE]),
        "changed: {} areas computed (0.53 x box)": len(annotations.persons),
        "changed: {} images whose width and height were swapped": swapped,
        "changed: {} missing images left out": len(missing),
        "not changed: {} images without crowdIndex (such a file cannot be evaluated by CrowdPose's rules)": no_index,
        "not changed: {} labeled keypoints outside their image": outside,
        "not changed: {} images without persons": sum(not persons_of[image_id] for image_id in kept),
    }
    words = [note.format(number) for note, number in notes.items() if number]
    return _content(images, [person for person in annotations.persons if person["image_id"] in kept]), words


def _size(path: Path, annotated: tuple[int, int], persons: list[Entry], file: Path) -> tuple[int, int]:
    """The (width, height) of an image's file, which must be those annotated in `file` or these swapped."""
    with open_image(path) as opened:
        size = upright_size(opened)
    if annotated != size:
        # an image that is only rotated by its EXIF data has no swapped numbers: the persons tell
        if annotated[::-1] != size or _num_outside(persons, size) > _num_outside(persons, annotated):
            found = f"{size[0]}x{size[1]} pixels, but {file} is made for {annotated[0]}x{annotated[1]}"
            raise UserError(f"the image {path} is {found}, which no swap of width and height explains")
    return size


def _num_outside(persons: list[Entry], size: tuple[int, int]) -> int:
    """The number of labeled keypoints outside an image of `size` (width, height)."""
    x, y, v = np.array([person["keypoints"] for person in persons], dtype=float).reshape(-1, 3).T
    return int(((v > 0) & ~((0 <= x) & (x <= size[0]) & (0 <= y) & (y <= size[1]))).sum())


def join(train: Entry, val: Entry) -> Entry:
    """Return two contents without a common image as one, with persons numbered from 1."""
    images, persons = ([*train[key], *val[key]] for key in ("images", "annotations"))
    for key in ("id", "file_name"):
        value, number = Counter(image[key] for image in images).most_common(1)[0]
        if number > 1:
            raise UserError(f"the image {value} is both in train and in val")
    return _content(images, [{**person, "id": number} for number, person in enumerate(persons, start=1)])


def _content(images: list[Entry], persons: list[Entry]) -> Entry:
    info = {"description": "CrowdPose, completed for training", "prepared_by": _MARK}
    return {"info": info, "images": images, "annotations": persons, "categories": [_CATEGORY]}


def write_prepared(content: Entry, path: Path) -> bool:
    """Write a prepared file and return False if the same one existed already; never overwrite files of others."""
    text = json.dumps(content)
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return False
        if load_coco_format(path).get("info", {}).get("prepared_by") != _MARK:
            raise UserError(f"{path} is not a file that this program wrote; choose another --output or move it away")
    with whole_file(path) as file:
        file.write(text.encode())
    return True
