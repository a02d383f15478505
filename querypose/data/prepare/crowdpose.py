"""From CrowdPose's official files to files that can be trained on: checked, repaired, completed."""

import json
import os
import re
from pathlib import Path

from tqdm import tqdm

from querypose.data.coco_format import are_finite_numbers, load_coco_format
from querypose.data.crowdpose import CROWDPOSE_NAMES, CROWDPOSE_SKELETON
from querypose.errors import UserError
from querypose.image_files import ImageFileError, open_image

AREA_PER_BOX_AREA = 0.53
"""Area of a person over that of the box, by CrowdPose's convention."""

NUM_COUNTED = 12
"""`num_keypoints` counts the first twelve joints: not head and neck."""

_MARK = "tools/prepare_crowdpose.py"
_ORIENTATION_TAG, _TRANSPOSED = 0x0112, (5, 6, 7, 8)


def find_official_files(sources):
    """Return the official annotation files among files and folders, by split: {"train": path, ..}.

    In a folder these are `crowdpose_train.json`, `crowdpose_val.json` and `crowdpose_test.json`, there or in `json/` or
    `annotations/`; a file that is named itself need only begin so. A `crowdpose_trainval.json` is taken
    where there is neither train nor val.
    """
    found = {}
    for source in map(Path, sources):
        if source.is_dir():
            names = [f"crowdpose_{split}.json" for split in ("train", "val", "test", "trainval")]
            there = [[f / name for f in (source, source / "json", source / "annotations")] for name in names]
            files = [next(file for file in each if file.is_file()) for each in there if any(map(Path.is_file, each))]
        elif source.is_file():
            files = [source]
        else:
            raise UserError(f"there is no file or folder {source}; name CrowdPose's annotation files or their folder")
        for file in files:
            match = re.match(r"crowdpose_(trainval|train|val|test)", file.name)
            if not match:
                raise UserError(f"{file} must be named crowdpose_train, crowdpose_val or crowdpose_test(..).json")
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
        content: the COCO-format dict to write; what was read is left as it is.
        changes: dict of what was changed, each with its count.
        remarks: dict of what is worth knowing and was left as it is, each with its count.
    """

    def __init__(self, path, image_root, *, allow_missing=False, progress=True):
        """Read and check the file.

        Args:
            path: annotation file.
            image_root: folder of the images.
            allow_missing: whether images that are not there are left out, with their persons, instead of refused.
            progress: whether to show a bar while the images are looked at.

        Raises:
            UserError: for files that are not CrowdPose's, missing or unreadable images, and sizes that no swap of
                width and height explains.
        """
        self.path = Path(path)
        content = load_coco_format(path)
        self.changes, self.remarks = {}, {}
        self._check_category(content)
        images = self._check_images(content["images"])
        persons = self._check_persons(content["annotations"], {image["id"] for image in images})
        images, persons = self._compare_with_pictures(images, persons, Path(image_root), allow_missing, progress)
        self.content = _content(images, persons)
        self._look_at_keypoints()

    def _check_category(self, content):
        named = [category for category in content["categories"] if category.get("keypoints")]
        if len(named) != 1 or tuple(named[0]["keypoints"]) != CROWDPOSE_NAMES:
            raise UserError(
                f"{self.path} has not CrowdPose's category, which is one with the 14 keypoints "
                f"{', '.join(CROWDPOSE_NAMES)}; use the official files"
            )
        self._category_id = named[0].get("id")
        official = [list(limb) for limb in _category()["skeleton"]]
        if named[0].get("skeleton") != official:
            self.changes["skeletons (limbs) put right"] = 1

    def _check_images(self, images):
        seen = {}
        for image in images:
            for key in ("id", "file_name", "width", "height"):
                if key not in image:
                    raise UserError(f"an image in {self.path} has no {key!r}: {image.get('file_name', image)}")
            if image["id"] in seen:
                raise UserError(f"the image id {image['id']} occurs twice in {self.path}; ids must be distinct")
            seen[image["id"]] = dict(image)
        if not seen:
            raise UserError(f"{self.path} lists no images")
        without = sum(not isinstance(image.get("crowdIndex"), int | float) for image in seen.values())
        if without:
            self.remarks["images without crowdIndex (such a file cannot be evaluated by CrowdPose's rules)"] = without
        return list(seen.values())

    def _check_persons(self, annotations, image_ids):
        persons, ids = [], set()
        for annotation in annotations:
            title = f"the annotation {annotation.get('id', annotation)} in {self.path}"
            missing = [key for key in ("id", "image_id", "category_id", "bbox", "keypoints") if key not in annotation]
            if missing:
                raise UserError(f"{title} has no {missing[0]!r}")
            if annotation["id"] in ids:
                raise UserError(f"{title} occurs twice; annotation ids must be distinct")
            ids.add(annotation["id"])
            if annotation["category_id"] != self._category_id or annotation["image_id"] not in image_ids:
                raise UserError(f"{title} is of an unknown category or image")
            for key, length in (("bbox", 4), ("keypoints", 3 * len(CROWDPOSE_NAMES))):
                if not are_finite_numbers(annotation[key]) or len(annotation[key]) != length:
                    raise UserError(f"{title} needs {length} numbers as its {key}")
            persons.append(self._complete(annotation))
        return persons

    def _complete(self, annotation):
        width, height = annotation["bbox"][2:]
        person = {"iscrowd": 0, **annotation, "category_id": 1}
        area = AREA_PER_BOX_AREA * width * height
        if person.get("area") != area:
            self._count(self.changes, "areas computed (0.53 x box)")
        person["area"] = area
        labelled = sum(v > 0 for v in person["keypoints"][2 : 3 * NUM_COUNTED : 3])
        if "num_keypoints" not in person:
            person["num_keypoints"] = labelled
            self._count(self.changes, "num_keypoints counted")
        elif person["num_keypoints"] != labelled:
            self._count(self.remarks, "persons whose num_keypoints is not that of the first twelve joints")
        if min(width, height) <= 0:
            self._count(self.remarks, "persons with an empty box (training leaves them out)")
        return person

    def _compare_with_pictures(self, images, persons, image_root, allow_missing, progress):
        persons_of, kept, missing = {}, [], []
        for person in persons:
            persons_of.setdefault(person["image_id"], []).append(person)
        bar = tqdm(images, desc=f"images of {self.path.name}", unit="image", disable=None if progress else True)
        for image in bar:
            picture = image_root / str(image["file_name"])
            size = _upright_size(picture)
            if size is None:
                missing.append(picture)
                continue
            self._repair_size(image, size, persons_of.get(image["id"], []), picture)
            kept.append(image)
        if missing and not (allow_missing and kept):
            raise UserError(
                f"{len(missing)} of the {len(images)} images of {self.path} are not there, the first is {missing[0]}; "
                "give the folder of CrowdPose's images by --images, or leave out what is missing by --allow-missing"
            )
        if missing:
            self.changes["images left out that are not there"] = len(missing)
        ids = {image["id"] for image in kept}
        return kept, [person for person in persons if person["image_id"] in ids]

    def _repair_size(self, image, size, persons, picture):
        annotated = (image["width"], image["height"])
        if annotated == size:
            return
        # an image that is turned by its EXIF data alone is not one with swapped numbers: the persons tell
        if annotated[::-1] != size or _num_outside(persons, size) > _num_outside(persons, annotated):
            raise UserError(
                f"the image {picture} is {size[0]}x{size[1]} pixels, but {self.path} is made for "
                f"{annotated[0]}x{annotated[1]}, which no swap of width and height explains; use the official images"
            )
        image["width"], image["height"] = size
        self._count(self.changes, "images whose width and height were swapped")

    def _look_at_keypoints(self):
        sizes = {image["id"]: (image["width"], image["height"]) for image in self.content["images"]}
        persons = self.content["annotations"]
        outside = sum(_num_outside([person], sizes[person["image_id"]]) for person in persons)
        if outside:
            self.remarks["labelled keypoints outside their image"] = outside
        empty = len(sizes) - len({person["image_id"] for person in persons})
        if empty:
            self.remarks["images without persons"] = empty

    @staticmethod
    def _count(counts, what):
        counts[what] = counts.get(what, 0) + 1


def join(first, second):
    """Return the content of two `CrowdPoseFile`s as one, trainval, and how many annotation ids had to be changed.

    Raises:
        UserError: if both hold the same image.
    """
    images, persons = [], []
    seen, ids, changed = {}, set(), 0
    highest = max((person["id"] for file in (first, second) for person in file.content["annotations"]), default=0)
    for file in (first, second):
        for image in file.content["images"]:
            if image["id"] in seen or image["file_name"] in seen.values():
                raise UserError(f"the image {image['file_name']} is both in {first.path} and in {second.path}")
        seen.update({image["id"]: image["file_name"] for image in file.content["images"]})
        images += file.content["images"]
        for person in file.content["annotations"]:
            if person["id"] in ids:
                changed += 1
                person = {**person, "id": highest + changed}
            ids.add(person["id"])
            persons.append(person)
    return _content(images, persons), changed


def write_prepared(content, path):
    """Write a prepared file and return whether there was not the same one already.

    Raises:
        UserError: if another file of that name is there, which this program has not written.
    """
    path, text = Path(path), json.dumps(content)
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return False
        if load_coco_format(path).get("info", {}).get("prepared_by") != _MARK:
            raise UserError(f"{path} is not a file that this program wrote; choose another --output or move it away")
    # a run that is interrupted leaves no half a file
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return True


def _content(images, persons):
    info = {"description": "CrowdPose, completed for training", "prepared_by": _MARK}
    return {"info": info, "images": images, "annotations": persons, "categories": [_category()]}


def _category():
    skeleton = CROWDPOSE_SKELETON
    return {
        "supercategory": "person",
        "id": 1,
        "name": "person",
        "keypoints": list(skeleton.keypoint_names),
        "skeleton": [[i + 1, j + 1] for i, j in skeleton.limbs],
        "flip_pairs": [list(pair) for pair in skeleton.flip_pairs],
        "sigmas": list(skeleton.sigmas),
    }


def _upright_size(path):
    """Return (width, height) of a picture as it is shown, None if it is not there."""
    try:
        with open_image(path) as picture:
            turned = picture.getexif().get(_ORIENTATION_TAG) in _TRANSPOSED
            return picture.size[::-1] if turned else picture.size
    except FileNotFoundError:
        return None
    except ImageFileError as error:
        raise UserError(f"the image {path} cannot be read ({error}); copy it anew") from error


def _num_outside(persons, size):
    """Return how many labelled keypoints lie outside of an image of `size` (width, height)."""
    keypoints = [person["keypoints"] for person in persons]
    return sum(
        v > 0 and not (0 <= x <= size[0] and 0 <= y <= size[1])
        for values in keypoints
        for x, y, v in zip(values[0::3], values[1::3], values[2::3], strict=True)
    )
