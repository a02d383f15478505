"""From CrowdPose's official files to files that can be trained on: checked, repaired, completed."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from querypose.atomic_io import whole_file
from querypose.data.annotations import NO_SIZE, UNKNOWN_IMAGE, Entry, image_path, read_annotations
from querypose.data.crowdpose import CROWDPOSE_NAMES, CROWDPOSE_SKELETON, CROWDPOSE_SPLITS
from querypose.errors import UserError
from querypose.image_io import open_image, upright_size

_NUM_COUNTED = 12  # `num_keypoints` counts the first twelve joints: not head and neck
_CATEGORY = {
    "supercategory": "person", "id": 1, "name": "person", "keypoints": list(CROWDPOSE_NAMES),
    "skeleton": [[i + 1, j + 1] for i, j in CROWDPOSE_SKELETON.limbs],
    "flip_pairs": [list(pair) for pair in CROWDPOSE_SKELETON.flip_pairs],
    "sigmas": list(CROWDPOSE_SKELETON.sigmas),
}  # fmt: skip


def find_official_files(sources: Sequence[str]) -> dict[str, Path]:
    """Return the official files of files and folders, or of these' `json` or `annotations`, by split."""
    found: dict[str, Path] = {}
    for source in map(Path, sources):
        folders = source, source / "json", source / "annotations"
        usual = [folder / f"crowdpose_{split}.json" for folder in folders for split in CROWDPOSE_SPLITS]
        for file in filter(Path.is_file, usual) if source.is_dir() else [source]:
            match = re.match(r"crowdpose_(trainval|train|val|test)", file.name)
            if not match or not file.is_file():
                raise UserError(f"{file} is no folder of CrowdPose's json files, nor one named like crowdpose_val.json")
            if match[1] in found:
                raise UserError(f"{found[match[1]]} and {file} are both of the split {match[1]}; name one of them")
            found[match[1]] = file
    if {"train", "val"} & found.keys():
        found.pop("trainval", None)  # it is made of them
    if not found:
        raise UserError(f"no crowdpose_(train|val|test).json in {', '.join(map(str, sources))}; name the files")
    return {split: found[split] for split in CROWDPOSE_SPLITS if split in found}


def complete(file: Path, image_root: Path, allow_missing: bool) -> tuple[Entry, list[str]]:
    """Return the content of an official file, checked and completed, and what was changed, in words."""
    annotations = read_annotations(file)
    category = annotations.category
    if category is None or tuple(category["keypoints"]) != CROWDPOSE_NAMES:
        raise UserError(f"{file} lacks CrowdPose's 14 keypoints, {', '.join(CROWDPOSE_NAMES)}; use the official files")
    persons_of: dict[int | str, list[Entry]] = {image["id"]: [] for image in annotations.images}
    for person in annotations.persons:
        del person["source_id"]
        person["category_id"] = 1
        person["num_keypoints"] = sum(v > 0 for v in person["keypoints"][2 : 3 * _NUM_COUNTED : 3])
        persons_of[person["image_id"]].append(person)

    images, missing, swapped = [], [], 0
    for image in tqdm(annotations.images, desc=f"images of {file.name}", unit="image", disable=None):
        path, persons = image_path(image_root, image["file_name"]), persons_of[image["id"]]
        if not path.exists():
            missing.append(path)
            continue
        with open_image(path) as opened:
            size, annotated = upright_size(opened), (image["width"], image["height"])
        # an image that is only rotated by its EXIF data has no swapped numbers: the persons tell
        if annotated not in (size, size[::-1]) or _num_outside(persons, size) > _num_outside(persons, annotated):
            found = f"{size[0]}x{size[1]} pixels, but {file} is made for {annotated[0]}x{annotated[1]}"
            raise UserError(f"the image {path} is {found}, which no swap of width and height explains")
        swapped += size != annotated
        images.append({**image, "width": size[0], "height": size[1]})
    if missing and not (allow_missing and images):
        counts = f"{len(missing)} of the {len(annotations.images)} images of {file} are missing"
        advice = "give their folder by --images, or leave out what is missing by --allow-missing"
        raise UserError(f"{counts}, the first is {missing[0]}; {advice}")
    kept = {image["id"] for image in images}
    notes = {
        "skeletons (limbs) corrected": int(category.get("skeleton") != _CATEGORY["skeleton"]),
        f"persons left out: {NO_SIZE}": len(annotations.left_out[NO_SIZE]),
        f"persons left out: {UNKNOWN_IMAGE}": len(annotations.left_out[UNKNOWN_IMAGE]),
        "areas computed (0.53 x box)": annotations.repaired["area"],
        "images whose width and height were swapped": swapped,
        "missing images left out": len(missing),
    }
    words = [f"{number} {note}" for note, number in notes.items() if number]
    persons = [person for person in annotations.persons if person["image_id"] in kept]
    return {"images": images, "annotations": persons, "categories": [_CATEGORY]}, words


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
    persons = [{**person, "id": number} for number, person in enumerate(persons, start=1)]
    return {"images": images, "annotations": persons, "categories": [_CATEGORY]}


def write_prepared(content: Entry, path: Path) -> None:
    """Write a prepared file, unless another one is there."""
    data = json.dumps(content).encode()
    if path.exists() and path.read_bytes() != data:
        raise UserError(f"{path} exists with other content; move it away, or choose another --output")
    with whole_file(path) as file:
        file.write(data)
