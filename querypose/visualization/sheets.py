"""Sheets of images side by side: training samples, results beside the ground truth, the attention of parts."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.structures import BoxMode
from PIL import Image, ImageOps
from torchvision.utils import make_grid
from tqdm import tqdm

from querypose.atomic_io import writing
from querypose.data import PoseDatasetMapper, check_datasets, skeleton_of, training_records
from querypose.data.annotations import image_path
from querypose.errors import UserError, report_error
from querypose.evaluation.ground_truth import Entries, GroundTruth
from querypose.evaluation.matching import ImageMatching, values_of
from querypose.image_io import UnreadableImageError, read_image_rgb
from querypose.skeleton import Skeleton
from querypose.structures import Persons
from querypose.visualization.draw_poses import draw_label, draw_poses, label_size, overlay_attention

PAPER, MAT = (255, 255, 255), (236, 236, 236)
GAP, SLIT = 12, 3  # pixels between rows, and between the images of a row
SHEET_ROWS = 24

Row = tuple[str, Sequence[np.ndarray]]
"""A title and, for each heading of the sheet, an image (H, W, 3) uint8 RGB of any size."""


def contact_sheet(
    rows: Sequence[Row], headings: Sequence[str], *, columns: int = 2, cell_size: tuple[int, int] = (400, 320)
) -> np.ndarray:
    """Lay images out in a grid of equal cells, `columns` rows side by side, as one (H, W, 3) uint8 RGB image.

    cell_size: width and height in pixels in which an image is fitted.
    """
    width, height = cell_size
    size = max(11, width // 24)
    line = label_size("", size)[1]
    tiles = []
    for title, images in rows:
        tile = np.full((2 * line + height, len(headings) * (width + SLIT) - SLIT, 3), PAPER, np.uint8)
        draw_label(tile, title, (0, 0), size, PAPER)
        for left, heading, image in zip(range(0, tile.shape[1], width + SLIT), headings, images, strict=True):
            cell = tile[line:, left : left + width]
            draw_label(cell, heading, (0, 0), size, PAPER)
            fitted = ImageOps.pad(Image.fromarray(image), cell_size, Image.Resampling.BICUBIC, MAT)
            cell[line:] = np.asarray(fitted)
        tiles.append(torch.from_numpy(tile).permute(2, 0, 1))
    return make_grid(tiles, columns, GAP, pad_value=PAPER[0]).permute(1, 2, 0).numpy()


def write_sheets(
    entries: Iterable[tuple[str, Row]], folder: Path, overview: str, headings: Sequence[str], **layout: Any
) -> int:
    """Write a file for each name and row and one of the first `SHEET_ROWS`, as `layout` says; return how many rows."""
    number, rows = 0, list[Row]()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, (name, row) in enumerate(entries, start=1):
            sheet = contact_sheet([row], headings, **{"cell_size": row[1][0].shape[1::-1], **layout})
            Image.fromarray(sheet).save(folder / name)
            if number <= SHEET_ROWS:
                rows.append(row)
        if rows:
            Image.fromarray(contact_sheet(rows, headings, **layout)).save(folder / overview)
    return number


def prediction_sheet(
    records: Iterable[dict[str, Any]], predictors: Mapping[str, Callable[[np.ndarray], Persons]], skeleton: Skeleton
) -> np.ndarray:
    """A row for each image, Detectron2's dataset dict: its ground truth and the poses of each predictor, by heading."""
    mapper = PoseDatasetMapper(is_train=True, augmentations=[], image_format="RGB", flip_indices=skeleton.flip_indices)
    rows = []
    for sample in map(mapper, records):
        image = read_image_rgb(sample["image"])
        found = [sample["instances"], *(predict(image) for predict in predictors.values())]
        rows.append((Path(sample["file_name"]).name, [draw_poses(image, poses, skeleton) for poses in found]))
    return contact_sheet(rows, ("ground truth", *predictors))


def sample_sheets(cfg: CfgNode, split: str, number: int, seed: int) -> Iterator[tuple[str, Row]]:
    """Draw random samples of a config's data set as the mapper makes them in training, or for the split "test" resized
    as in evaluation, each beside one of the same random numbers with a flip after them."""
    is_train = split == "train"
    if not (is_train or cfg.DATASETS.TEST):
        raise UserError("the config names no data to test on; set DATASETS.TEST")
    check_datasets(cfg, train=is_train, test=not is_train)
    skeleton = skeleton_of(cfg)
    records = training_records(cfg) if is_train else get_detection_dataset_dicts(cfg.DATASETS.TEST, filter_empty=False)
    # test samples have their persons, too
    options = {**PoseDatasetMapper.from_config(cfg, is_train=is_train), "is_train": True}
    mirroring = {**options, "augmentations": [*options["augmentations"], T.RandomFlip(prob=1.0)]}
    mappers = PoseDatasetMapper(**options), PoseDatasetMapper(**mirroring)
    chosen = np.random.default_rng(seed).permutation(len(records))[:number].tolist()
    for count, index in enumerate(tqdm(chosen, unit="sample", disable=None), start=1):
        images = []
        for mapper in mappers:
            np.random.seed((seed + index) % 2**32)  # Detectron2 samples from numpy's global generator
            sample = mapper(records[index])
            image = read_image_rgb(sample["image"], cfg.INPUT.FORMAT)
            images.append(draw_poses(image, sample["instances"], skeleton))
        file = Path(records[index]["file_name"])
        yield f"{count:03d}_{file.stem}.png", (f"{file.name}: {len(sample['instances'])} persons", images)


def result_sheets(
    truth: GroundTruth, results: Entries, image_root: str, errors: Sequence[ImageMatching]
) -> Iterator[tuple[str, Row]]:
    """Draw the ground truth and the results in the images of `errors`; those that cannot be read are reported."""
    names = {image["id"]: image["file_name"] for image in truth.content["images"]}
    persons = [person for person in truth.content["annotations"] if not person["iscrowd"]]
    for rank, error in enumerate(tqdm(errors, unit="image", disable=None), start=1):
        try:
            image = read_image_rgb(image_path(image_root, names[error.image_id]))
        except UnreadableImageError as unreadable:
            report_error(unreadable)
            continue
        images = []
        for kind, entries in (("gt", persons), ("pred", results)):
            here = [entry for entry in entries if entry["image_id"] == error.image_id]
            fields = coco_fields(here, truth.skeleton.num_keypoints, kind)
            images.append(draw_poses(image, fields, truth.skeleton, score_threshold=0.0, keypoint_threshold=0.0))
        name = Path(names[error.image_id])
        title = f"{rank}. {name.name}: error {error.error:.2f}, {len(error.pairs)} of {len(error.best_oks)} found"
        yield f"{rank:04d}_{name.stem}.png", (f"{title}, {error.false_positives} false positives", images)


def coco_fields(entries: Entries, num_keypoints: int, kind: str) -> dict[str, np.ndarray]:
    """The COCO annotations ("gt") or results ("pred") of an image as fields for `draw_poses`."""
    # half a pixel as Detectron2 adds it, since COCO counts from the pixels' corners
    fields = {f"{kind}_keypoints": values_of(entries, "keypoints", num_keypoints, 3) + (0.5, 0.5, 0)}
    if all("bbox" in entry for entry in entries):
        boxes = values_of(entries, "bbox", 4)
        fields[f"{kind}_boxes"] = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    return fields if kind == "gt" else {**fields, "scores": values_of(entries, "score")}


def write_error_table(path: Path, truth: GroundTruth, errors: Iterable[ImageMatching]) -> None:
    """Write a CSV file with a line for each image."""
    names = {image["id"]: image["file_name"] for image in truth.content["images"]}
    with writing(path), open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("rank", "image_id", "file_name", "error", "persons", "found", "false_positives"))
        for rank, error in enumerate(errors, start=1):
            counts = len(error.best_oks), len(error.pairs), error.false_positives
            table.writerow((rank, error.image_id, names[error.image_id], error.error, *counts))


def attention_panels(image: np.ndarray, persons: Persons, index: int, height: int) -> list[np.ndarray]:
    """Crop one person and draw its pose, `height` pixels high, and on darkened crops the attention of each part: M + 1
    images."""
    box = persons.attention_boxes.tensor[index].numpy()
    size, margin = np.array(image.shape[1::-1]), 0.1 * (box[2:] - box[:2])
    low = np.clip(np.floor(box[:2] - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(box[2:] + margin), low + 1, size).astype(int)
    crop = image[low[1] : high[1], low[0] : high[0]]
    person = {"pred_keypoints": persons.pred_keypoints[index : index + 1].numpy() - (*low, 0)}
    pose = draw_poses(crop, person, persons.skeleton, keypoint_threshold=0.0, scale=height / len(crop))
    boxes = (box - np.tile(low, 2))[None]
    return [pose, *(overlay_attention(crop // 2, part[None, None], boxes) for part in persons.part_attention[index])]
