#!/usr/bin/env python
"""Prepare CrowdPose's official files for training: check, repair, complete, and write train + val as one.

Example:
    tools/prepare_crowdpose.py --annotations CrowdPose/json --images CrowdPose/images

writes crowdpose/annotations/crowdpose_{train,val,trainval,test}.json below DETECTRON2_DATASETS and, unless the images
are there already, a link crowdpose/images to their folder. The official files are never changed; the program can run
again.
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from querypose.atomic_io import whole_file, writing
from querypose.data.annotations import AREA_PER_BOX_AREA, NO_SIZE, UNKNOWN_IMAGE, normalize
from querypose.data.coco_format import image_path, keypoint_category, load_coco_format
from querypose.data.coco_keypoints import dataset_root
from querypose.data.crowdpose import CROWDPOSE_NAMES, CROWDPOSE_SKELETON, CROWDPOSE_SPLITS
from querypose.errors import UserError, exit_on_user_error
from querypose.image_io import open_image, upright_size

NUM_COUNTED = 12  # `num_keypoints` counts the first twelve joints: not head and neck
MARK = "tools/prepare_crowdpose.py"
CATEGORY = {
    "supercategory": "person", "id": 1, "name": "person", "keypoints": list(CROWDPOSE_NAMES),
    "skeleton": [[i + 1, j + 1] for i, j in CROWDPOSE_SKELETON.limbs],
    "flip_pairs": [list(pair) for pair in CROWDPOSE_SKELETON.flip_pairs],
    "sigmas": list(CROWDPOSE_SKELETON.sigmas),
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = "the official crowdpose_{train,val,test}.json, or their folder"
    parser.add_argument("--annotations", nargs="+", required=True, metavar="PATH", help=files)
    parser.add_argument("--images", help="folder of the images (default: OUTPUT/images)")
    parser.add_argument("--output", help="folder to write (default: crowdpose in the folder of the data sets)")
    parser.add_argument("--allow-missing", action="store_true", help="leave out missing images")
    options = parser.parse_args()
    output = Path(options.output) if options.output else dataset_root() / "crowdpose"
    images = Path(options.images) if options.images else output / "images"
    official = find_official_files(options.annotations)
    if not images.is_dir():
        raise UserError(f"there is no image folder {images}; name it by --images")
    link = output / "images"
    if (link.exists() or link.is_symlink()) and link.resolve() != images.resolve():
        raise UserError(f"{link} exists and is not {images}; remove it, or choose another --output")

    # everything is checked before anything is written
    contents = {split: complete(path, images, options.allow_missing) for split, path in official.items()}
    if {"train", "val"} <= contents.keys():
        contents["trainval"] = join(contents["train"], contents["val"])
    with writing(output):
        (output / "annotations").mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(images.resolve())
            print(f"{link} -> {images.resolve()}")
        for split, content in contents.items():
            target = output / "annotations" / f"crowdpose_{split}.json"
            note = "" if write(content, target) else " (existed already)"
            persons = content["annotations"]
            counted = sum(person["num_keypoints"] > 0 and not person["iscrowd"] for person in persons)
            summary = f"{len(content['images'])} images, {len(persons)} persons"
            print(f"{target}{note}: {summary}, of which {counted} count in the evaluation")
    absent = [f"crowdpose_{split}" for split in CROWDPOSE_SPLITS if split not in contents]
    if absent:
        print(f"not written, because their files are missing: {', '.join(absent)}")


def find_official_files(sources):
    """Return the official annotation files by split; a trainval is used if there is neither train nor val."""
    found = {}
    for source in map(Path, sources):
        for file in sorted(source.glob("crowdpose_*.json")) if source.is_dir() else [source]:
            match = re.match(r"crowdpose_(trainval|train|val|test)", file.name)
            if not match or not file.is_file():
                raise UserError(f"{file} is no folder of CrowdPose's json files, nor one named like crowdpose_val.json")
            if match[1] in found:
                raise UserError(f"{found[match[1]]} and {file} are both of the split {match[1]}; name one of them")
            found[match[1]] = file
    if {"train", "val"} & found.keys():
        found.pop("trainval", None)
    if not found:
        raise UserError(f"no crowdpose_(train|val|test).json in {', '.join(map(str, sources))}; name the files")
    return {split: found[split] for split in CROWDPOSE_SPLITS if split in found}


def complete(file, image_root, allow_missing):
    """Return the content of an official file, checked and completed, and print what was changed."""
    content = load_coco_format(file)
    category, _ = keypoint_category(content, file)
    if category is None or tuple(category["keypoints"]) != CROWDPOSE_NAMES or not content["images"]:
        names = ", ".join(CROWDPOSE_NAMES)
        raise UserError(f"{file} has not CrowdPose's images and 14 keypoints, {names}; use the official files")
    annotations = normalize(content, str(file))
    changed = {"skeletons (limbs) corrected": category.get("skeleton") != CATEGORY["skeleton"]}
    for reason in (NO_SIZE, UNKNOWN_IMAGE):
        changed[f"persons left out: {reason}"] = len(annotations.left_out.get(reason, ()))
    changed["areas computed (0.53 x box)"] = len(annotations.persons)
    persons_of = {image["id"]: [] for image in annotations.images}
    for person in annotations.persons:
        width, height = person["bbox"][2:]
        person |= {"category_id": 1, "area": AREA_PER_BOX_AREA * width * height}
        person["num_keypoints"] = sum(v > 0 for v in person["keypoints"][2 : 3 * NUM_COUNTED : 3])
        given = person.pop("source_id")
        person["id"] = person["id"] if given is None else given
        persons_of[person["image_id"]].append(person)

    images, missing, swapped = [], [], 0
    for image in tqdm(annotations.images, desc=f"images of {file.name}", unit="image", disable=None):
        path, here = image_path(image_root, image["file_name"]), persons_of[image["id"]]
        if not path.exists():
            missing.append(path)
            continue
        with open_image(path) as opened:
            size = upright_size(opened)
        annotated = (image["width"], image["height"])
        if annotated != size:
            # an image that is only rotated by its EXIF data has no swapped numbers: the persons tell
            if annotated[::-1] != size or num_outside(here, size) > num_outside(here, annotated):
                found = f"{size[0]}x{size[1]} pixels, but {file} is made for {annotated[0]}x{annotated[1]}"
                raise UserError(f"the image {path} is {found}, which no swap of width and height explains")
            swapped += 1
        images.append({**image, "width": size[0], "height": size[1]})
    if missing and not (allow_missing and images):
        counts = f"{len(missing)} of the {len(annotations.images)} images of {file} are missing"
        advice = "give their folder by --images, or leave out what is missing by --allow-missing"
        raise UserError(f"{counts}, the first is {missing[0]}; {advice}")
    changed |= {"images whose width and height were swapped": swapped, "missing images left out": len(missing)}
    no_index = "images without crowdIndex (such a file cannot be evaluated by CrowdPose's rules)"
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    noticed = {
        no_index: sum(not isinstance(image.get("crowdIndex"), int | float) for image in images),
        "labeled keypoints outside their image": sum(num_outside(persons_of[i], size) for i, size in sizes.items()),
        "images without persons": sum(not persons_of[i] for i in sizes),
    }
    print(f"{file}, which stays as it is:")
    for title, counts in (("changed", changed), ("not changed", noticed)):
        for what, number in counts.items():
            if number:
                print(f"    {title}: {int(number)} {what}")
    return content_of(images, [person for person in annotations.persons if person["image_id"] in sizes])


def num_outside(persons, size):
    """Return how many labeled keypoints lie outside an image of `size` (width, height)."""
    x, y, v = np.array([person["keypoints"] for person in persons], dtype=float).reshape(-1, 3).T
    return int(((v > 0) & ~((0 <= x) & (x <= size[0]) & (0 <= y) & (y <= size[1]))).sum())


def content_of(images, persons):
    info = {"description": "CrowdPose, completed for training", "prepared_by": MARK}
    return {"info": info, "images": images, "annotations": persons, "categories": [CATEGORY]}


def join(train, val):
    """Return two contents without a common image as one, with persons numbered from 1."""
    images, persons = ([*train[key], *val[key]] for key in ("images", "annotations"))
    for key in ("id", "file_name"):
        value, number = Counter(image[key] for image in images).most_common(1)[0]
        if number > 1:
            raise UserError(f"the image {value} is both in train and in val")
    return content_of(images, [{**person, "id": number} for number, person in enumerate(persons, start=1)])


def write(content, path):
    """Write a prepared file and return False if the same one existed already; never overwrite files of others."""
    text = json.dumps(content)
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return False
        if load_coco_format(path).get("info", {}).get("prepared_by") != MARK:
            raise UserError(f"{path} is not a file that this program wrote; choose another --output or move it away")
    with whole_file(path) as file:
        file.write(text.encode())
    return True


if __name__ == "__main__":
    with exit_on_user_error():
        main()
