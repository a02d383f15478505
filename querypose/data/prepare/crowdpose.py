"""From CrowdPose's official files to files that can be trained on: checked, repaired, completed."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from querypose.atomic_io import whole_file
from querypose.data.annotations import AREA_PER_BOX_AREA, NO_SIZE, UNKNOWN_IMAGE, normalize
from querypose.data.coco_format import image_path, keypoint_category, load_coco_format
from querypose.data.crowdpose import CROWDPOSE_NAMES, CROWDPOSE_SKELETON, CROWDPOSE_SPLITS
from querypose.errors import UserError
from querypose.image_io import open_image, upright_size

NUM_COUNTED = 12
"""`num_keypoints` counts the first twelve joints: not head and neck."""

_MARK = "tools/prepare_crowdpose.py"
_CATEGORY = {
    "supercategory": "person",
    "id": 1,
    "name": "person",
    "keypoints": list(CROWDPOSE_NAMES),
    "skeleton": [[i + 1, j + 1] for i, j in CROWDPOSE_SKELETON.limbs],
    "flip_pairs": [list(pair) for pair in CROWDPOSE_SKELETON.flip_pairs],
    "sigmas": list(CROWDPOSE_SKELETON.sigmas),
}


def find_official_files(sources: Iterable[str | Path]) -> dict[str, Path]:
    """Return the official annotation files among files and folders, by split: {"train": path, ..}.

    In a folder these are `crowdpose_train.json`, `crowdpose_val.json` and `crowdpose_test.json`, there or in `json/` or
    `annotations/`; a file that is named itself need only begin so. A `crowdpose_trainval.json` is used
    if there is neither train nor val.
    """
    found: dict[str, Path] = {}
    for source in map(Path, sources):
        folders = [source, source / "json", source / "annotations"]
        usual = [folder / f"crowdpose_{split}.json" for folder in folders for split in CROWDPOSE_SPLITS]
        for file in [path for path in usual if path.is_file()] if source.is_dir() else [source]:
            match = re.match(r"crowdpose_(trainval|train|val|test)", file.name)
            if not match or not file.is_file():
                raise UserError(
                    f"{file} is no folder of CrowdPose's json files, nor a file named like crowdpose_train.json"
                )
            if match[1] in found:
                raise UserError(f"{found[match[1]]} and {file} are both of the split {match[1]}; name one of them")
            found[match[1]] = file
    if {"train", "val"} & found.keys():
        found.pop("trainval", None)
    if not found:
        raise UserError(f"no crowdpose_(train|val|test).json in {', '.join(map(str, sources))}; name the files")
    return found


class CrowdPoseFile:
    """One official annotation file, checked and completed.

    Attributes:
        content: the COCO-format dict to write; the file itself is not changed.
        changes: what was changed, each with its count.
        remarks: what is worth knowing and was not changed, each with its count.
    """

    def __init__(self, path: str | Path, image_root: str | Path, *, allow_missing: bool = False) -> None:
        """allow_missing: whether missing images are left out, with their persons, instead of refused."""
        self.path = Path(path)
        self.changes: Counter[str] = Counter()
        content = load_coco_format(path)
        category, _ = keypoint_category(content, path)
        if category is None or tuple(category["keypoints"]) != CROWDPOSE_NAMES or not content["images"]:
            names = ", ".join(CROWDPOSE_NAMES)
            raise UserError(f"{path} has not CrowdPose's images and 14 keypoints, {names}; use the official files")
        if category.get("skeleton") != _CATEGORY["skeleton"]:
            self.changes["skeletons (limbs) corrected"] = 1
        annotations = normalize(content, str(path))
        for reason in (NO_SIZE, UNKNOWN_IMAGE):
            self.changes[f"persons left out: {reason}"] = annotations.left_out[reason]
        self.changes["areas computed (0.53 x box)"] = len(annotations.persons)
        persons = [_complete(person) for person in annotations.persons]
        images = self._compare_sizes(annotations.images, persons, Path(image_root), allow_missing)
        sizes = {image["id"]: (image["width"], image["height"]) for image in images}
        persons = [person for person in persons if person["image_id"] in sizes]
        without_index = [image for image in images if not isinstance(image.get("crowdIndex"), int | float)]
        outside = sum(_num_outside([person], sizes[person["image_id"]]) for person in persons)
        self.changes = +self.changes
        remarks = {
            "images without crowdIndex (such a file cannot be evaluated by CrowdPose's rules)": len(without_index),
            "labeled keypoints outside their image": outside,
            "images without persons": len(sizes.keys() - {person["image_id"] for person in persons}),
        }
        self.remarks = +Counter(remarks)
        self.content = _content(images, persons)

    def _compare_sizes(
        self,
        images: list[dict[str, Any]],
        persons: Sequence[dict[str, Any]],
        image_root: Path,
        allow_missing: bool,
    ) -> list[dict[str, Any]]:
        """Return the images that exist, with the width and height of their files."""
        persons_of: dict[Any, list[dict[str, Any]]] = {}
        for person in persons:
            persons_of.setdefault(person["image_id"], []).append(person)
        kept, missing = [], []
        for image in tqdm(images, desc=f"images of {self.path.name}", unit="image", disable=None):
            path = image_path(image_root, image["file_name"])
            if not path.exists():
                missing.append(path)
                continue
            with open_image(path) as opened:
                size = upright_size(opened)
            annotated = (image["width"], image["height"])
            if annotated != size:
                # an image that is only rotated by its EXIF data has no swapped numbers: the persons tell
                here = persons_of.get(image["id"], [])
                if annotated[::-1] != size or _num_outside(here, size) > _num_outside(here, annotated):
                    found = f"{size[0]}x{size[1]} pixels, but {self.path} is made for {annotated[0]}x{annotated[1]}"
                    raise UserError(f"the image {path} is {found}, which no swap of width and height explains")
                self.changes["images whose width and height were swapped"] += 1
            kept.append({**image, "width": size[0], "height": size[1]})
        if missing and not (allow_missing and kept):
            raise UserError(
                f"{len(missing)} of the {len(images)} images of {self.path} are missing, the first is {missing[0]}; "
                "give their folder by --images, or leave out what is missing by --allow-missing"
            )
        self.changes["missing images left out"] = len(missing)
        return kept


def join(first: CrowdPoseFile, second: CrowdPoseFile) -> dict[str, Any]:
    """Return the content of two files without a common image as one, trainval, with persons numbered from 1."""
    images, persons = ([*first.content[key], *second.content[key]] for key in ("images", "annotations"))
    for key in ("id", "file_name"):
        twice = [value for value, number in Counter(image[key] for image in images).items() if number > 1]
        if twice:
            raise UserError(f"the image {twice[0]} is both in {first.path} and in {second.path}")
    return _content(images, [{**person, "id": number} for number, person in enumerate(persons, start=1)])


def write_prepared(content: dict[str, Any], path: str | Path) -> bool:
    """Write a prepared file and return False if the same one existed already; never overwrite files of others."""
    path, text = Path(path), json.dumps(content)
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return False
        if load_coco_format(path).get("info", {}).get("prepared_by") != _MARK:
            raise UserError(f"{path} is not a file that this program wrote; choose another --output or move it away")
    with whole_file(path) as file:
        file.write(text.encode())
    return True


def _complete(person: dict[str, Any]) -> dict[str, Any]:
    width, height = person["bbox"][2:]
    completed = {**person, "category_id": 1, "area": AREA_PER_BOX_AREA * width * height}
    completed["num_keypoints"] = sum(v > 0 for v in person["keypoints"][2 : 3 * NUM_COUNTED : 3])
    given = completed.pop("source_id")
    return completed if given is None else {**completed, "id": given}


def _content(images: list[dict[str, Any]], persons: list[dict[str, Any]]) -> dict[str, Any]:
    info = {"description": "CrowdPose, completed for training", "prepared_by": _MARK}
    return {"info": info, "images": images, "annotations": persons, "categories": [_CATEGORY]}


def _num_outside(persons: Iterable[dict[str, Any]], size: tuple[int, int]) -> int:
    """Return how many labeled keypoints lie outside an image of `size` (width, height)."""
    return sum(
        v > 0 and not (0 <= x <= size[0] and 0 <= y <= size[1])
        for keypoints in (person["keypoints"] for person in persons)
        for x, y, v in zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=True)
    )
