"""COCO-format keypoint files as Detectron2 data sets: naming, registering, loading and checking them."""

import difflib
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from querypose.data.annotations import Entry, StrPath, image_path, keypoint_category, load_coco_format, read_annotations
from querypose.data.yolo_pose import split_yolo_name, write_coco_file
from querypose.errors import UserError
from querypose.skeleton import Skeleton, flip_pairs_by_name, known_sigmas, limbs_by_name

logger = logging.getLogger(__name__)


def dataset_root() -> Path:
    """Return the folder that holds the data sets: the variable `DETECTRON2_DATASETS`, else `./datasets`."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def register_coco_keypoints(
    name: str, json_file: StrPath, image_root: StrPath, skeleton: Skeleton | None = None, **metadata: Any
) -> None:
    """Register the category with keypoints of a COCO-format file as a Detectron2 data set of one class.

    skeleton: for files without keypoint names (test sets), or those that are not to be read now. metadata: more of its
    metadata: `evaluator_type` (default "coco"), `prepare` (writes the file before it is read), `submission_split` (of a
    test set, see `write_submission`).
    """
    class_name = "person"
    if skeleton is None:
        category, _ = keypoint_category(load_coco_format(json_file), json_file)
        if category is None:
            raise UserError(f"the file {json_file} has no category with keypoints; use a keypoint file")
        skeleton, class_name = Skeleton.from_coco_category(category), str(category.get("name") or class_name)
    DatasetCatalog.register(name, functools.partial(load_coco_keypoints, name))
    metadata = {"json_file": str(json_file), "image_root": str(image_root), "evaluator_type": "coco", **metadata}
    MetadataCatalog.get(name).set(thing_classes=[class_name], **skeleton.to_metadata(), **metadata)


def load_coco_keypoints(name: str) -> list[Entry]:
    """Return the Detectron2 dataset dicts of a registered data set: its persons alone, with `category_id` 0.

    As Detectron2's `load_coco_json`, with 0.5 pixels added to keypoints, but of a file in any of the forms that
    `normalize` takes, without segmentations, in the order of ids. Images without persons stay; the config drops them.
    """
    metadata, file = MetadataCatalog.get(name), read_annotations(annotation_file(name)).log()
    metadata.thing_dataset_id_to_contiguous_id = {file.category_id: 0}  # for Detectron2's evaluators
    records: dict[Any, Entry] = {}
    for image in sorted(file.images, key=lambda image: (isinstance(image["id"], str), image["id"])):
        path, size = image_path(metadata.image_root, image["file_name"]), (int(image["height"]), int(image["width"]))
        record = {"file_name": str(path), "height": size[0], "width": size[1], "image_id": image["id"]}
        records[image["id"]] = {**record, "annotations": []}
    for person in file.persons:
        keypoints = [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(person["keypoints"])]
        entry = {"iscrowd": person["iscrowd"], "bbox": person["bbox"], "bbox_mode": BoxMode.XYWH_ABS}
        records[person["image_id"]]["annotations"].append({**entry, "category_id": 0, "keypoints": keypoints})
    return list(records.values())


def skeleton_of(cfg: CfgNode) -> Skeleton:
    """Return the `Skeleton` of the model and of its data.

    `cfg.MODEL.QUERYPOSE.SKELETON` if it names keypoints (without SIGMAS, what it leaves out follows from the names;
    with them it is complete, as `setup_config` stores it); else that of the first data set. The OKS sigmas are
    `cfg.TEST.KEYPOINT_OKS_SIGMAS` if these are given.
    """
    sigmas, given = cfg.TEST.KEYPOINT_OKS_SIGMAS, cfg.MODEL.QUERYPOSE.SKELETON
    if given.KEYPOINT_NAMES:
        names, is_complete = given.KEYPOINT_NAMES, bool(given.SIGMAS)
        pairs = given.FLIP_PAIRS if given.FLIP_PAIRS or is_complete else flip_pairs_by_name(names)
        limbs = given.LIMBS if given.LIMBS or is_complete else limbs_by_name(names)
        return Skeleton(names, pairs, limbs, sigmas or given.SIGMAS or known_sigmas(names))
    datasets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not datasets:
        raise UserError("the config names no data set; set DATASETS.TRAIN or DATASETS.TEST")
    return Skeleton.from_metadata(MetadataCatalog.get(resolve_dataset(datasets[0])), sigmas=sigmas)


def check_datasets(cfg: CfgNode, train: bool = True, test: bool = True) -> None:
    """Check the data sets of a config before work begins: each, and that all share one skeleton."""
    if train and not cfg.DATASETS.TRAIN:
        raise UserError("there is nothing to train on; set DATASETS.TRAIN to one or more data sets")
    names = [*(cfg.DATASETS.TRAIN if train else ()), *(cfg.DATASETS.TEST if test else ())]
    model = skeleton_of(cfg)
    for name in names:
        skeleton = check_keypoint_dataset(name, skip_missing=cfg.DATALOADER.SKIP_UNREADABLE_IMAGES)
        for what, found, expected in (
            ("keypoints", skeleton.keypoint_names, model.keypoint_names),
            ("flip pairs", *(sorted(map(sorted, one.flip_pairs)) for one in (skeleton, model))),
            ("class", *(MetadataCatalog.get(n).get("thing_classes") for n in (name, names[0]))),
        ):
            if found != expected:
                differ = f"has the {what} {found}, the model and the other data sets {expected}"
                raise UserError(f"the data set {name!r} {differ}; all must share one skeleton and the category's name")


def check_keypoint_dataset(name: str, skip_missing: bool = False) -> Skeleton:
    """Check that a data set, as of `resolve_dataset`, can be used, that every image exists, and return its skeleton.

    skip_missing: whether missing images only give a warning (unless all are missing).
    """
    metadata = MetadataCatalog.get(resolve_dataset(name))
    skeleton = Skeleton.from_metadata(metadata)
    if metadata.get("json_file") is None:  # registered otherwise than by `register_coco_keypoints`
        return skeleton
    annotations = read_annotations(annotation_file(name))
    if (category := annotations.category) and tuple(category["keypoints"]) != skeleton.keypoint_names:
        found, names = category["keypoints"], skeleton.keypoint_names
        raise UserError(f"{annotations.path} has the keypoints {found}, but {name!r} is registered with {list(names)}")
    files = [image_path(metadata.image_root, image["file_name"]) for image in annotations.images]
    folders = filter(Path.is_dir, {file.parent for file in files})
    listed = {entry.path for folder in folders for entry in os.scandir(folder) if entry.is_file()}
    # those listed need no look, which would be slow on network disks
    if missing := [file for file in files if str(file) not in listed and not os.path.isfile(file)]:
        counts = f"{len(missing)} of the {len(files)} images of the data set {name!r}"
        text = f"{counts} do not exist; the first is {missing[0]}"
        if not skip_missing or len(missing) == len(files):
            raise UserError(f"{text}: check the image folder, or set DATALOADER.SKIP_UNREADABLE_IMAGES True")
        logger.warning("%s; they are skipped (DATALOADER.SKIP_UNREADABLE_IMAGES).", text)
    return skeleton


def annotation_file(name: str) -> Path:
    """Return the path of a data set's annotation file, written first if need be; its images are not looked for."""
    if split_yolo_name(name):
        name = resolve_dataset(name)
    if name not in DatasetCatalog.list():
        return _find(_split_file_name(name)[0], Path.is_file, "annotation file")
    metadata = MetadataCatalog.get(name)
    if metadata.get("prepare"):
        metadata.prepare()
    path = Path(metadata.get("json_file", "json_file of its metadata"))
    if not path.is_file():
        advice = f"see datasets/README.md, or set DETECTRON2_DATASETS to their folder (now {dataset_root()})"
        raise UserError(f"the data set {name!r} needs the annotation file {path}, which does not exist; {advice}")
    return path


def resolve_dataset(name: str) -> str:
    """Return `name` after registering it if it names a file that is not registered yet.

    A name is a registered data set, `FILE.json`, `FILE.json@IMAGE_FOLDER`, or `FILE.yaml@SPLIT` of a YOLO-pose data
    set. A file is looked for as given, then below `dataset_root()`; without a folder its images in the usual ones.
    """
    if name in DatasetCatalog.list():
        return name
    if yolo := split_yolo_name(name):
        json_file, image_root = write_coco_file(_find(yolo[0], Path.is_file, "data set file"), yolo[1])
        logger.info("%s is in COCO format in %s, its images in %s", name, json_file, image_root)
    else:
        file_name, folder = _split_file_name(name)
        json_file = _find(file_name, Path.is_file, "annotation file")
        image_root = _find(folder, Path.is_dir, "image folder") if folder else _find_image_root(json_file)
    register_coco_keypoints(name, json_file, image_root)
    return name


def _split_file_name(name: str) -> tuple[str, str]:
    """(FILE.json, IMAGE_FOLDER) of `FILE.json@IMAGE_FOLDER`, (FILE.json, "") of `FILE.json`."""
    stem, ending, folder = name.rpartition(".json@")
    if ending:
        return stem + ".json", folder
    if name.endswith(".json"):
        return name, ""
    similar = difflib.get_close_matches(name, DatasetCatalog.list(), n=1)
    hint = f" (did you mean {similar[0]!r}?)" if similar else ""
    known = "a registered one, FILE.json or FILE.json@IMAGE_FOLDER (COCO format), or FILE.yaml@SPLIT (YOLO-pose)"
    raise UserError(f"the data set {name!r} is not known{hint}; name {known}")


def _find(given: str, exists: Callable[[Path], bool], kind: str) -> Path:
    tried = [Path(given).expanduser(), dataset_root() / given]
    for path in filter(exists, tried):
        return path
    raise UserError(f"the {kind} {given} does not exist (looked for {' and '.join(map(str, dict.fromkeys(tried)))})")


def _find_image_root(json_file: Path) -> Path:
    """The first of the usual folders around an annotation file that holds its first image."""
    file_name = str(load_coco_format(json_file)["images"][0].get("file_name"))
    folder, split = json_file.parent, json_file.stem.removeprefix("person_keypoints_")
    tried = [folder, folder / "images", folder / json_file.stem, folder / split]
    tried += [folder.parent / "images", folder.parent / split, folder.parent / "images" / split]
    for candidate in tried:
        if os.path.isfile(image_path(candidate, file_name)):
            return candidate
    found = f"the image {file_name} of {json_file} is in none of {', '.join(map(str, dict.fromkeys(tried)))}"
    raise UserError(f"{found}; name the folder as {json_file}@IMAGE_FOLDER")
