"""The mapper: where pixels and keypoints go, against closed forms."""

import copy

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image
from tiny_model import tiny_config

from querypose.data import PoseDatasetMapper
from querypose.data.mapper import PersonRotation, RandomRotation, ResizeShortestEdge

WIDTH, HEIGHT = 60, 40
PERSON = {
    "bbox": [10.0, 5.0, 30.0, 20.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0,
    "keypoints": [20.5, 6.5, 2, 38.5, 12.5, 1, 0.5, 0.5, 0],  # head, left hand, right hand
}  # fmt: skip


@pytest.fixture
def image(tmp_path):
    """An image whose red and green values are the pixel's column and row."""
    pixels = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    pixels[..., 0] = np.arange(WIDTH)[None]
    pixels[..., 1] = np.arange(HEIGHT)[:, None]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def record(file_name, *persons):
    size = {"width": WIDTH, "height": HEIGHT}
    return {"file_name": str(file_name), "image_id": 4, **size, "annotations": list(persons)}


def mapper(*augmentations):
    options = {"is_train": True, "image_format": "RGB", "flip_indices": [0, 2, 1]}
    return PoseDatasetMapper(augmentations=list(augmentations), **options)


HEAD, HAND, NOTHING = [20.5, 6.5, 2], [38.5, 12.5, 1], [0, 0, 0]  # what nobody labeled is (0, 0, 0)
TRANSFORMS = {
    # augmentation, size, pixels by (row, column) after it, box, keypoints
    "none": ((), (40, 60), {(7, 31): (31, 7)}, [10, 5, 40, 25], [HEAD, HAND, NOTHING]),
    # the labeled left hand is now the right one
    "flip": (
        (T.RandomFlip(prob=1.0),), (40, 60), {(7, 31): (28, 7)},
        [20, 5, 50, 25], [[39.5, 6.5, 2], NOTHING, [21.5, 12.5, 1]],
    ),
    "resize": (
        (ResizeShortestEdge(80, 1000),), (80, 120), {(0, 0): (0, 0)},
        [20, 10, 80, 50], [[41, 13, 2], [77, 25, 1], NOTHING],
    ),
    "crop": (
        (T.CropTransform(15, 4, 20, 30),), (30, 20), {(3, 2): (17, 7)},
        [0, 1, 20, 21], [[5.5, 2.5, 2], NOTHING, NOTHING],
    ),
    # counterclockwise about (30, 20): an offset (x, y) becomes (y, -x)
    "quarter turn": (
        (PersonRotation(HEIGHT, WIDTH, 90, expand=False),), (40, 60), {(29, 16): (20, 6), (11, 22): (38, 12)},
        [15, 10, 35, 40], [[16.5, 29.5, 2], [22.5, 11.5, 1], NOTHING],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("augmentations", "size", "pixels", "box", "keypoints"), TRANSFORMS.values(), ids=TRANSFORMS)
def test_pixels_boxes_and_keypoints_move_together(image, augmentations, size, pixels, box, keypoints):
    outside, crowd = {**PERSON, "bbox": [50.0, 35.0, 5.0, 5.0]}, {**PERSON, "iscrowd": 1}
    given = record(image, PERSON, crowd, *([outside] if size == (30, 20) else []))
    before = copy.deepcopy(given)
    output = mapper(*augmentations)(given)
    assert given == before and "annotations" not in output
    assert output["image"].dtype == torch.uint8 and output["image"].shape == (3, *size)
    for (row, column), (red, green) in pixels.items():
        assert output["image"][:, row, column].tolist() == [red, green, 200]
    instances = output["instances"]
    assert instances.image_size == size and instances.gt_classes.tolist() == [0]
    np.testing.assert_allclose(instances.gt_boxes.tensor, [box], rtol=1e-6)
    np.testing.assert_allclose(instances.gt_keypoints.tensor, [keypoints], rtol=1e-6)
    assert (output["height"], output["width"], output["image_id"]) == (HEIGHT, WIDTH, 4)


def test_the_box_of_a_rotated_person_is_that_of_its_ellipse():
    box = np.array([[20.0, 0.0, 40.0, 40.0]])  # about the center, half axes 10 and 20
    for angle, (a, b) in {0: (10, 20), 45: (np.sqrt(250), np.sqrt(250)), 180: (10, 20)}.items():
        found = PersonRotation(HEIGHT, WIDTH, angle, expand=False).apply_box(box)
        np.testing.assert_allclose(found, [[30 - a, 20 - b, 30 + a, 20 + b]], atol=1e-9)
    rotation = RandomRotation(30.0)
    angles = [rotation.get_transform(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).angle for _ in range(200)]
    assert -30 <= min(angles) < -25 and 25 < max(angles) <= 30


def test_images_without_persons_and_persons_without_keypoints(image):
    for persons in ([], [{**PERSON, "bbox": [5.0, 5.0, 0.0, 9.0]}]):
        instances = mapper()(record(image, *persons))["instances"]
        assert instances.gt_boxes.tensor.shape == (0, 4) and instances.gt_classes.shape == (0,)
        assert instances.gt_keypoints.tensor.shape == (0, 3, 3)
    for keypoints in (None, [], [0] * 9):
        found = mapper()(record(image, {**PERSON, "keypoints": keypoints}, PERSON))["instances"].gt_keypoints.tensor
        assert found.tolist() == [[NOTHING] * 3, [HEAD, HAND, NOTHING]]


def test_inference_resizes_and_returns_no_annotations(image):
    cfg = tiny_config("light", "INPUT.MIN_SIZE_TEST", 80, "INPUT.MAX_SIZE_TEST", 1000)
    output = PoseDatasetMapper(cfg, is_train=False)(record(image, PERSON))
    assert output["image"].shape == (3, 80, 120) and output["image"][0, 0, 0] < output["image"][0, 0, -1]
    assert "instances" not in output and "annotations" not in output
    assert (output["height"], output["width"]) == (HEIGHT, WIDTH)


def test_config_gives_the_papers_augmentation():
    made = PoseDatasetMapper(tiny_config(), is_train=True)
    flip, crop, resize = made.augmentations.augs
    assert flip.prob == 0.5 and flip.horizontal and crop.prob == 0.5
    before, cut = crop.aug.augs
    assert list(before.short_edge_length) == [400, 500, 600]
    assert list(cut.crop_size) == [384, 600] and cut.crop_type == "absolute_range"
    assert list(resize.short_edge_length) == list(range(480, 801, 32)) and resize.max_size == 1333
    assert made.flip_indices.tolist()[:3] == [0, 2, 1]
