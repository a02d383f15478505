"""From an annotated file name to the model's input: reading, augmentation, keypoints; unreadable images are skipped."""

from __future__ import annotations

import copy
import logging
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.structures import Instances, Keypoints

from querypose.data.coco_keypoints import skeleton_of
from querypose.errors import UserError
from querypose.image_io import UnreadableImageError, read_image_rgb

logger = logging.getLogger(__name__)

Records = Sequence[dict[str, Any]]
Mapper = Callable[[dict[str, Any]], dict[str, Any]]

_MAX_RATIO_BEFORE_CROP = 8  # of long side to short side: an image of 12,000 x 20 pixels would become 480,000 x 800
_MAX_IN_A_ROW = 100  # unreadable images


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, but very thin images keep at least 1 pixel in each direction."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = super().get_transform(image)
        if isinstance(resize, T.ResizeTransform):
            resize.new_h, resize.new_w = max(1, resize.new_h), max(1, resize.new_w)
        return resize


class PersonRotation(T.RotationTransform):
    """Detectron2's, but a box (n, 4) becomes that around the rotated ellipse inscribed in it.

    Around its rotated corners it would be larger than the person, who seldom reaches into them.
    """

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        center, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2
        cos, sin = np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))
        half = np.sqrt((half * cos) ** 2 + (half[:, ::-1] * sin) ** 2)
        center = self.apply_coords(center)
        return np.concatenate([center - half, center + half], axis=1)


class RandomRotation(T.Augmentation):
    """A `PersonRotation` by up to `degrees` in either direction, the size of the image unchanged."""

    def __init__(self, degrees: float):
        self.degrees = degrees

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return PersonRotation(*image.shape[:2], np.random.uniform(-self.degrees, self.degrees), expand=False)


def build_pose_augmentation(cfg: CfgNode, can_flip: bool = True) -> list[T.Augmentation]:
    """Return the augmentation of `cfg.INPUT` in training, by default the paper's ("Implementation Details").

    A horizontal flip; with probability 0.5 a resize and a crop, so that persons are larger and truncated; last a resize
    to the size of the input. Color jitter and rotation are not the paper's.
    """
    sizes = cfg.INPUT
    augmentations: list[T.Augmentation] = []
    if sizes.COLOR_JITTER > 0:
        low, high = 1 - sizes.COLOR_JITTER, 1 + sizes.COLOR_JITTER
        augmentations += [T.RandomBrightness(low, high), T.RandomContrast(low, high), T.RandomSaturation(low, high)]
    if sizes.ROTATION > 0:
        augmentations.append(RandomRotation(sizes.ROTATION))
    if sizes.RANDOM_FLIP == "horizontal" and can_flip:
        augmentations.append(T.RandomFlip(prob=0.5, horizontal=True))
    if sizes.CROP.ENABLED:
        before = list(sizes.CROP.RESIZE_BEFORE)
        zoom = ResizeShortestEdge(before, _MAX_RATIO_BEFORE_CROP * max(before), "choice")
        crop = T.RandomCrop(sizes.CROP.TYPE, list(sizes.CROP.SIZE))
        augmentations.append(T.RandomApply(T.AugmentationList([zoom, crop]), prob=0.5))
    augmentations.append(ResizeShortestEdge(sizes.MIN_SIZE_TRAIN, sizes.MAX_SIZE_TRAIN, sizes.MIN_SIZE_TRAIN_SAMPLING))
    return augmentations


class PoseDatasetMapper:
    """Map one Detectron2 dataset dict to the input of a pose model.

    Returns for an input with `file_name` (and, in training, `annotations`) a copy of it with:
        image: uint8 tensor (3, H, W) in the configured channel order, augmented.
        instances (training only): `Instances` of the n >= 0 persons, without crowds: `gt_boxes` (clipped to the image,
            none empty), `gt_classes` and `gt_keypoints` (n, K, 3) as x, y in pixels and visibility, (0, 0, 0) without
            a label or outside the image.
        height, width: size of the file's image, to which predictions are scaled.

    Raises `UnreadableImageError`, and `UserError` for an image that is not of the annotated size.
    """

    @configurable
    def __init__(
        self, *, is_train: bool, augmentations: list[T.Augmentation], image_format: str, flip_indices: Sequence[int]
    ) -> None:
        """flip_indices: for each of the K keypoints the index of its mirror image; image_format: "RGB" or "BGR"."""
        self.is_train, self.image_format = is_train, image_format
        self.augmentations = T.AugmentationList(augmentations)
        self.flip_indices = np.asarray(flip_indices, dtype=np.int64)
        logger.info("Augmentation in %s: %s", "training" if is_train else "inference", augmentations)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        skeleton = skeleton_of(cfg)
        augmentations: list[T.Augmentation] = [ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]
        if is_train:
            if cfg.INPUT.RANDOM_FLIP == "horizontal" and (warning := skeleton.flip_warning()):
                logger.warning("%s.", warning[0].upper() + warning[1:])
            augmentations = build_pose_augmentation(cfg, bool(skeleton.flip_pairs) or skeleton.num_keypoints == 1)
        options = {"image_format": cfg.INPUT.FORMAT, "flip_indices": skeleton.flip_indices}
        return {"is_train": is_train, "augmentations": augmentations, **options}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        # Data sets are shared between epochs and workers: augmentation must not change them.
        output = copy.deepcopy(dataset_dict)
        annotations = output.pop("annotations", None)

        image = read_image_rgb(output["file_name"])
        try:
            utils.check_image_size(output, image)  # adds `height` and `width` if absent
        except utils.SizeMismatchError as error:
            raise UserError(str(error)) from error
        augmented = T.AugInput(image)  # in RGB, whose weights RandomSaturation has
        transforms = self.augmentations(augmented)
        pixels = augmented.image[:, :, ::-1] if self.image_format == "BGR" else augmented.image
        output["image"] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        if self.is_train and annotations is not None:
            output["instances"] = self._transform(annotations, transforms, augmented.image.shape[:2])
        return output

    def _transform(self, annotations: Records, transforms: T.TransformList, size: tuple[int, int]) -> Instances:
        """The persons after augmentation, to `size` (height, width)."""
        num_keypoints = len(self.flip_indices)
        persons = []
        for annotation in annotations:
            if annotation.get("iscrowd", 0):
                continue
            person = {key: annotation[key] for key in ("bbox", "bbox_mode", "category_id")}
            # A person without labeled keypoints still counts for the box losses.
            person["keypoints"] = annotation.get("keypoints") or [0.0] * (3 * num_keypoints)
            utils.transform_instance_annotations(person, transforms, size, keypoint_hflip_indices=self.flip_indices)
            persons.append(person)
        # One array, of the same shape without persons: a tensor from a list of arrays would be slow.
        keypoints = np.array([person.pop("keypoints") for person in persons]).reshape(-1, num_keypoints, 3)
        instances = utils.annotations_to_instances(persons, size)
        instances.gt_keypoints = Keypoints(keypoints.astype(np.float32))
        return utils.filter_empty_instances(instances)


class SkipUnreadable:
    """A mapper around a mapper, which skips unreadable images (`DATALOADER.SKIP_UNREADABLE_IMAGES`).

    In training one of `records`, sampled at random, replaces such an image. In inference (without `records`) its input
    is marked `unreadable`, with a black `image`, so that an evaluator can count it as one without detections. Each is
    logged once per process and listed, with the reason, in `list_file`, which all processes write to.
    """

    def __init__(self, mapper: Mapper, list_file: str | os.PathLike[str], records: Records | None = None) -> None:
        self.mapper, self.list_file, self.records = mapper, Path(list_file), records
        self._seen: set[str] = set()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        candidate, first = record, None
        for _ in range(_MAX_IN_A_ROW):
            try:
                return self.mapper(candidate)
            except UnreadableImageError as error:
                first, name = first or error, candidate["file_name"]
                if name not in self._seen:
                    self._seen.add(name)
                    logger.warning("Skipped: %s (%d so far in this process)", error, len(self._seen))
                    self.list_file.parent.mkdir(parents=True, exist_ok=True)
                    with open(self.list_file, "a", encoding="utf-8", errors="backslashreplace") as file:
                        file.write(f"{name}\t{error}\n")
            if self.records is None:
                return {**record, "image": torch.zeros(3, 64, 64, dtype=torch.uint8), "unreadable": True}
            candidate = random.choice(self.records)
        raise UserError(f"{_MAX_IN_A_ROW} images in a row cannot be read; check the image folder (first: {first})")
