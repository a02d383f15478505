"""Mini-COCO: a small training and validation set made of COCO val2017 by a fixed rule (docs/EXPERIMENTS.md)."""

import json
import shutil
from pathlib import Path

from PIL import Image

from querypose.data.annotations import Entry, read_annotations
from querypose.errors import UserError
from querypose.image_io import open_image

SHORT_SIDE = 360


def make_minicoco(annotations: Path, image_root: Path, output: Path) -> dict[str, int]:
    """Write `person_keypoints_{train,val}.json`, `train/` and `val/` into `output`; return their numbers of images.

    Of the images with labeled keypoints, ordered by id, the 1st, 11th, 21st .. are val, and the 6th, 16th .. are left
    out. Training images are shrunk to a short side of at most 360 pixels, their annotations with them; validation
    images are unchanged, so that COCO's size classes mean the same.
    """
    if output.exists():
        raise UserError(f"{output} exists already; remove it to make it again, or choose another --output")
    content = read_annotations(annotations)
    labeled = {person["image_id"] for person in content.persons if person["num_keypoints"]}
    images = sorted((image for image in content.images if image["id"] in labeled), key=lambda image: image["id"])
    splits = {"train": [image for index, image in enumerate(images) if index % 5], "val": images[::10]}
    if not splits["train"]:
        raise UserError(f"{annotations} has too few images with keypoints; give COCO's person_keypoints_val2017.json")
    # written elsewhere first, so that an interrupted run leaves no incomplete data set
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, records in splits.items():
        (partial / split).mkdir(parents=True)
        scales, scaled = {}, []
        for record in records:
            source, target = image_root / record["file_name"], partial / split / record["file_name"]
            x, y = scales[record["id"]] = _copy_image(source, target, shrink=split == "train")
            size = {"width": round(record["width"] * x), "height": round(record["height"] * y)}
            scaled.append({"id": record["id"], "file_name": record["file_name"], **size})
        persons = [person for person in content.persons if person["image_id"] in scales]
        persons = [_scaled_person(person, *scales[person["image_id"]]) for person in persons]
        small = {"images": scaled, "annotations": persons, "categories": [content.category]}
        (partial / f"person_keypoints_{split}.json").write_text(json.dumps(small))
    partial.rename(output)
    return {split: len(records) for split, records in splits.items()}


def _copy_image(source: Path, target: Path, shrink: bool) -> tuple[float, float]:
    """Write the image, with a short side of at most 360 if `shrink`; return the scale of x and of y."""
    with open_image(source) as image:
        width, height = image.size
        factor = SHORT_SIDE / min(width, height)
        if not shrink or factor >= 1:
            shutil.copyfile(source, target)
            return 1.0, 1.0
        small = image.convert("RGB").resize((round(width * factor), round(height * factor)), Image.Resampling.LANCZOS)
    small.save(target, quality=80)
    return small.width / width, small.height / height


def _scaled_person(person: Entry, x: float, y: float) -> Entry:
    box = [value * factor for value, factor in zip(person["bbox"], (x, y, x, y), strict=True)]
    keypoints = list(person["keypoints"])
    for first in range(0, len(keypoints), 3):
        # COCO's keypoints are pixel indices, whose centers are half a pixel further; (0, 0, 0) is not labeled
        if keypoints[first + 2] > 0:
            keypoints[first] = (keypoints[first] + 0.5) * x - 0.5
            keypoints[first + 1] = (keypoints[first + 1] + 0.5) * y - 0.5
    kept = {key: person[key] for key in ("id", "image_id", "category_id", "iscrowd", "num_keypoints")}
    return {**kept, "bbox": box, "area": person["area"] * x * y, "keypoints": keypoints}
