"""Mini-COCO cut to single persons, for comparisons that two CPU cores finish in minutes (docs/EXPERIMENTS.md)."""

import json
import shutil
from pathlib import Path

from PIL import Image

from querypose.data.coco_format import load_coco_format
from querypose.errors import UserError
from querypose.image_files import ImageFileError, open_image

LONG_SIDE = 192
"""Training pictures are shrunk to at most this; validation pictures keep their size, and with it COCO's areas."""
LEAST_KEYPOINTS, LEAST_SIDE = 8, 96
"""Persons with fewer labelled keypoints, or a box whose longer side is shorter (pixels), get no picture."""
MARGIN, LEAST_ASPECT = 1.25, 0.75
LEAST_SEEN = 4.0  # pixels: of persons beside the one, boxes cut to less are left out


def cut_people(minicoco: Path, output: Path) -> dict[str, int]:
    """Write a picture for each person of Mini-COCO who is large and labelled well, with all who are seen in it.

    A picture is the person's box, enlarged 1.25 times and to sides of at least 3:4, cut off at the image's border.
    Boxes are cut off there too, and keypoints outside count as not labelled.

    Args:
        minicoco: the folder that `make_minicoco` writes.
        output: a folder that does not exist yet; it gets the same layout.

    Returns:
        pictures by split.

    Raises:
        UserError: files that are missing or not what they should be; an output that is there already.
    """
    if output.exists():
        raise UserError(f"{output} exists already; remove it to make it anew, or choose another --output")
    # whole or not at all
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    made = {}
    for split in ("train", "val"):
        content = load_coco_format(minicoco / f"person_keypoints_{split}.json")
        (partial / split).mkdir(parents=True)
        small = {"images": [], "annotations": [], "categories": content["categories"]}
        long_side = LONG_SIDE if split == "train" else None
        try:
            for image in content["images"]:
                people = [person for person in content["annotations"] if person["image_id"] == image["id"]]
                chosen = [person for person in people if _large_and_labelled(person)]
                if chosen:
                    source = minicoco / split / image["file_name"]
                    _cut_image(source, chosen, people, partial / split, long_side, small)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{minicoco} is not as tools/prepare_minicoco.py makes it: its {split} annotations lack or misstate "
                f"{error}; make it anew"
            ) from error
        if not small["images"]:
            raise UserError(f"{minicoco} has no person to cut out of its {split} images; give a folder of Mini-COCO")
        (partial / f"person_keypoints_{split}.json").write_text(json.dumps(small))
        made[split] = len(small["images"])
    partial.rename(output)
    return made


def _large_and_labelled(person: dict) -> bool:
    enough = person["num_keypoints"] >= LEAST_KEYPOINTS and max(person["bbox"][2:]) >= LEAST_SIDE
    return enough and not person["iscrowd"]


def _cut_image(source: Path, chosen: list, people: list, folder: Path, long_side: int | None, small: dict) -> None:
    """Write the pictures of one image into `folder` and their records into `small`."""
    try:
        with open_image(source) as opened:
            image = opened.convert("RGB")
    except ImageFileError as error:
        raise UserError(f"the image {source} cannot be read ({error}); make Mini-COCO anew") from error
    for person in chosen:
        left, top, right, bottom = region_around(person["bbox"], image.size)
        width, height = right - left, bottom - top
        scale = min(1.0, long_side / max(width, height)) if long_side else 1.0
        size = round(width * scale), round(height * scale)
        picture = image.crop((left, top, right, bottom)).resize(size, Image.Resampling.LANCZOS)
        name = f"{person['id']}.jpg"
        picture.save(folder / name, quality=95)
        record = {"id": person["id"], "file_name": name, "width": size[0], "height": size[1]}
        small["images"].append(record)
        scales = size[0] / width, size[1] / height
        for other in people:
            seen = person_in_region(other, (left, top, right, bottom), scales)
            if seen is not None:
                small["annotations"].append({**seen, "id": len(small["annotations"]) + 1, "image_id": person["id"]})


def region_around(box: list[float], image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a person's picture, in whole pixels; `box` is COCO's x, y, width, height."""
    x, y, width, height = box
    middle = x + width / 2, y + height / 2
    half = [MARGIN * max(width, LEAST_ASPECT * height) / 2, MARGIN * max(height, LEAST_ASPECT * width) / 2]
    start = [max(0, int(m - h)) for m, h in zip(middle, half, strict=True)]
    end = [min(side, int(m + h) + 1) for m, h, side in zip(middle, half, image_size, strict=True)]
    return start[0], start[1], end[0], end[1]


def person_in_region(person: dict, region: tuple[int, int, int, int], scales: tuple[float, float]) -> dict | None:
    """The annotation as it is seen in a region that is then scaled by x and y; None for one that is hardly in it."""
    left, top, right, bottom = region
    x, y, width, height = person["bbox"]
    x_end, y_end = min(x + width, right), min(y + height, bottom)
    x, y = max(x, left), max(y, top)
    if x_end - x < LEAST_SEEN or y_end - y < LEAST_SEEN:
        return None
    part = (x_end - x) * (y_end - y) / (width * height)
    box = [(x - left) * scales[0], (y - top) * scales[1], (x_end - x) * scales[0], (y_end - y) * scales[1]]
    keypoints = list(person["keypoints"])
    for first in range(0, len(keypoints), 3):
        kx, ky, visibility = keypoints[first : first + 3]
        if visibility > 0 and left <= kx < right and top <= ky < bottom:
            # COCO's keypoints are indices of pixels, whose centres lie half a pixel further
            moved = [(kx - left + 0.5) * scales[0] - 0.5, (ky - top + 0.5) * scales[1] - 0.5, visibility]
        else:
            moved = [0, 0, 0]
        keypoints[first : first + 3] = moved
    labelled = sum(visibility > 0 for visibility in keypoints[2::3])
    area = person["area"] * part * scales[0] * scales[1]
    kept = {key: person[key] for key in ("category_id", "iscrowd")}
    return {**kept, "bbox": box, "area": area, "keypoints": keypoints, "num_keypoints": labelled}
