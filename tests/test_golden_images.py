"""Drawn persons against reviewed images: tests/data/drawn_*.png.

    python tests/test_golden_images.py

writes them again; review them before they are committed.
"""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from PIL import Image

from querypose.skeleton import Skeleton, flip_pairs_by_name, known_sigmas, limbs_by_name
from querypose.visualization.draw_poses import draw_poses

FOLDER = Path(__file__).resolve().parent / "data"

# A person that faces us, in units of its height, x from its middle and y from its top: the left side is on our right.
STANDING = {
    "nose": (0.0, 0.08), "eye": (0.025, 0.06), "ear": (0.05, 0.07), "shoulder": (0.11, 0.2), "elbow": (0.17, 0.34),
    "wrist": (0.19, 0.48), "hip": (0.07, 0.5), "knee": (0.08, 0.73), "ankle": (0.09, 0.95), "head": (0.0, 0.0),
    "neck": (0.0, 0.17),
}  # fmt: skip
COCO = list(COCO_PERSON_KEYPOINT_NAMES)
CROWDPOSE = [*COCO[5:], "head", "neck"]
DOG = ["nose", "withers", "tail", "left_fore_paw", "right_fore_paw", "left_hind_paw", "right_hind_paw"]


def skeleton_of_names(names, limbs=None):
    return Skeleton(names, flip_pairs_by_name(names), limbs or limbs_by_name(names), known_sigmas(names))


def standing(names, x, y, height, swing=0.0):
    """One person (K, 3) of that height in pixels, its top at (x, y); swing lifts arms and parts legs."""
    keypoints = np.ones((len(names), 3))
    for index, name in enumerate(names):
        side, _, joint = name.rpartition("_")
        right, down = STANDING[joint]
        sign = {"left": 1, "right": -1, "": 0}[side]
        if joint in ("elbow", "wrist"):
            right, down = right + swing * (down - 0.2), down - sign * swing * (down - 0.2)
        if joint in ("knee", "ankle"):
            right += 0.4 * swing * (down - 0.5)
        keypoints[index, :2] = x + sign * right * height, y + down * height
    return keypoints


def boxes_of(persons):
    low, high = persons[:, :, :2].min(axis=1), persons[:, :, :2].max(axis=1)
    room = 0.08 * (high - low)
    return np.concatenate([low - room, high + room], axis=1)


def predicted(persons, scores):
    return {"pred_keypoints": persons, "pred_boxes": boxes_of(persons), "scores": scores}


def background(height, width):
    """A dark wall, a light floor and a white door, on all of which lines must be visible."""
    image = np.full((height, width, 3), (70, 80, 90), np.uint8)
    image[int(0.6 * height) :] = (190, 180, 160)
    image[int(0.1 * height) : int(0.6 * height), int(0.7 * width) : int(0.9 * width)] = 245
    return image


def coco_small():
    """A person of 70 pixels, with confidences that fall from head to foot."""
    persons = standing(COCO, 48, 10, 70, swing=0.6)[None]
    persons[0, :, 2] = np.linspace(1.0, 0.45, len(COCO))
    return background(90, 96), predicted(persons, [0.87]), skeleton_of_names(COCO), {}


def coco_large():
    """Two persons in an image of 1280 x 960 pixels."""
    persons = np.stack([standing(COCO, 420, 120, 780, swing=1.2), standing(COCO, 900, 420, 300)])
    return background(960, 1280), predicted(persons, [0.98, 0.61]), skeleton_of_names(COCO), {}


def crowdpose_twenty():
    """Twenty persons in two rows, overlapping."""
    persons = [standing(CROWDPOSE, 45 + 62 * i, 60 + 9 * (i % 3), 190, swing=0.25 * (i % 4)) for i in range(10)]
    persons += [standing(CROWDPOSE, 40 + 62 * i, 235 + 7 * (i % 2), 220, swing=0.2 * (i % 5)) for i in range(10)]
    poses = predicted(np.stack(persons), np.linspace(0.99, 0.4, len(persons)))
    return background(480, 640), poses, skeleton_of_names(CROWDPOSE), {}


def custom_truth():
    """The ground truth of two dogs: a hidden paw is hollow, the tail of the second has no label."""
    limbs = ((0, 1), (1, 2), (1, 3), (1, 4), (2, 5), (2, 6))
    dog = np.array([(20, 40), (60, 45), (150, 50), (50, 120), (75, 118), (140, 120), (165, 116)], float)
    dogs = np.stack([dog, 0.6 * dog + (230, 60)])
    visible = np.full((2, len(DOG), 1), 2.0)
    visible[0, 6], visible[1, 2] = 1, 0
    truth = {"gt_keypoints": np.concatenate([dogs, visible], axis=2), "gt_boxes": boxes_of(dogs)}
    return background(160, 380), truth, skeleton_of_names(DOG, limbs), {}


def by_person():
    """Four persons, each in a color, without boxes, all keypoints alike."""
    persons = np.stack([standing(COCO, 60 + 90 * i, 20, 180, swing=0.3 * i) for i in range(4)])
    options = {"color_by": "person", "show_boxes": False, "confidence": "none"}
    return background(240, 400), predicted(persons, [0.9] * 4), skeleton_of_names(COCO), options


CASES = (coco_small, coco_large, crowdpose_twenty, custom_truth, by_person)


def drawn(case):
    image, poses, skeleton, options = case()
    return draw_poses(image, poses, skeleton, **options)


def distance(image, golden):
    """Share of pixels that differ visibly, by more than 32 of 255 in a channel."""
    return float((np.abs(image.astype(int) - golden.astype(int)).max(axis=2) > 32).mean())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_drawing_is_the_golden_image(case):
    golden = np.asarray(Image.open(FOLDER / f"drawn_{case.__name__}.png"))
    image = drawn(case)
    assert image.shape == golden.shape
    assert distance(image, golden) < 0.001, f"review it: python {Path(__file__).name} writes it again"
    assert np.abs(image.astype(float) - golden).mean() < 0.1, "many pixels differ a little"


if __name__ == "__main__":
    for case in CASES:
        Image.fromarray(drawn(case)).save(FOLDER / f"drawn_{case.__name__}.png", optimize=True)
