"""draw_poses: thresholds, geometry, robustness, and reviewed images; sheets of images.

    python tests/test_draw_poses.py

writes the reviewed images tests/data/drawn_*.png again; review them before they are committed.
"""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from PIL import Image

from querypose.errors import UserError
from querypose.skeleton import SIDE_COLORS, Skeleton, flip_pairs_by_name, known_sigmas, limbs_by_name
from querypose.visualization.draw_poses import PERSON_COLORS, draw_poses
from querypose.visualization.sheets import GAP, PAPER, SLIT, coco_fields, contact_sheet

FOLDER = Path(__file__).resolve().parent / "data"
SKELETON = Skeleton(
    keypoint_names=("head", "left_hand", "right_hand", "left_foot", "right_foot", "tail"),
    flip_pairs=(("left_hand", "right_hand"), ("left_foot", "right_foot")),
    limbs=((1, 3), (2, 4), (0, 5), (1, 2), (0, 3)),
    sigmas=(0.05,) * 6,
)
BACKGROUND = 128


def person(points):
    """One person (1, K, 3) of {index: (x, y) or (x, y, confidence)}; the others have confidence 0."""
    keypoints = np.zeros((1, 6, 3))
    for index, point in points.items():
        keypoints[0, index] = (*point, 1.0)[:3]
    return keypoints


def predictions(keypoints, boxes=None, scores=None):
    boxes = [[50.0, 50.0, 450.0, 350.0]] * len(keypoints) if boxes is None else boxes
    scores = np.ones(len(keypoints)) if scores is None else scores
    return {"pred_keypoints": keypoints, "pred_boxes": np.asarray(boxes, float), "scores": np.asarray(scores, float)}


def draw(instances, image=None, **options):
    image = np.full((400, 500, 3), BACKGROUND, np.uint8) if image is None else image
    return draw_poses(image, instances, SKELETON, **{"scale": 1, "show_boxes": False, "show_scores": False} | options)


def changed(image):
    return (image != BACKGROUND).any(axis=2)


def test_thresholds_leave_out_persons_keypoints_and_limbs():
    keypoints = np.concatenate([person({1: (x, 100), 3: (x, 200)}) for x in (100, 300)])
    image = draw(predictions(keypoints, scores=[0.49, 0.5]), score_threshold=0.5)
    assert not changed(image)[:, :200].any() and changed(image)[:, 200:].any()
    assert not changed(draw(predictions(keypoints, scores=[0.1, 0.19]), show_boxes=True, show_scores=True)).any()
    points = {1: (100, 100, 1.0), 3: (100, 200, 0.39), 2: (300, 100, 1.0), 4: (300, 200, 0.41)}
    image = draw(predictions(person(points)), keypoint_threshold=0.4)
    assert not changed(image)[120:, :200].any() and changed(image)[90:110, 90:110].any()
    assert changed(image)[150, 295:305].any(), "a limb needs both ends"


@pytest.mark.parametrize(
    "height, width, scale, expected",  # None: the longer side reaches 400, at most 4 times as large
    [(400, 500, 3, 3), (120, 160, 1.5, 1.5), (120, 160, None, 3), (400, 300, None, 1), (40, 30, None, 4)],
)
def test_the_image_is_scaled_and_a_mark_centered_on_its_keypoint(height, width, scale, expected):
    given = np.full((height, width, 3), BACKGROUND, np.uint8)
    image = draw(predictions(person({1: (12.25, 18.75)})), given, scale=scale)
    assert image.shape == (expected * height, expected * width, 3) and image.dtype == np.uint8
    assert (given == BACKGROUND).all(), "the given image must not change"
    rows, columns = np.nonzero(changed(image))
    # The center of pixel i lies at i + 0.5.
    assert columns.mean() + 0.5 == pytest.approx(12.25 * expected, abs=0.1)
    assert rows.mean() + 0.5 == pytest.approx(18.75 * expected, abs=0.1)


def test_what_lies_far_outside_or_is_not_finite_does_no_harm():
    image = draw(predictions(person({1: (-1e9, 200.5), 3: (1e9, 200.5)})))
    assert (image[200] == SIDE_COLORS["left"]).all(), "a limb is drawn where it crosses the image"
    assert not changed(image)[:180].any() and not changed(image)[220:].any()
    for point in ((-300.0, 50.0), (50.0, 1e12), (np.nan, 50.0), (np.inf, 50.0), (900.0, 900.0)):
        assert not changed(draw(predictions(person({1: point})))).any()
    boxes = [[np.nan] * 4, [600, 200, 700, 290], [-1e12, -1e12, 1e12, 1e12]]
    image = draw(predictions(np.zeros((3, 6, 3)), boxes), show_boxes=True, show_scores=True)
    assert not changed(image)[20:-10, 30:-10].any() and tuple(image[399, 0]) == PERSON_COLORS[2]


def test_fields_of_coco_entries():
    poses = coco_fields([{"keypoints": [float(v) for v in range(18)], "score": 0.7}], 6, "pred")
    assert poses["pred_keypoints"][0, 1].tolist() == [3.5, 4.5, 5] and poses["scores"].tolist() == [0.7]
    assert "pred_boxes" not in poses and changed(draw(poses, show_scores=True)).any()
    truth = coco_fields([{"keypoints": [0] * 18, "bbox": [10, 20, 30, 40]}], 6, "gt")
    assert truth["gt_boxes"].tolist() == [[10, 20, 40, 60]] and not changed(draw(coco_fields([], 6, "gt"))).any()


def test_unusable_arguments_are_rejected():
    with pytest.raises(UserError, match="4 keypoints but the skeleton has 6"):
        draw(predictions(np.zeros((1, 4, 3))))
    with pytest.raises(UserError, match="color_by must be one of"):
        draw(predictions(person({})), color_by="red")


def plain(color):
    return np.full((30, 40, 3), color, np.uint8)


def test_images_are_in_order_and_of_the_same_size():
    colors = [[(20 * i + 10, 0, 200), (20 * i + 10, 200, 0)] for i in range(5)]
    rows = [("title", [plain(truth), plain(found)]) for truth, found in colors]
    sheet = contact_sheet(rows, "ab", cell_size=(120, 90))
    pixels = np.array([[np.argwhere((sheet == color).all(axis=2))[[0, -1]] for color in pair] for pair in colors])
    assert (pixels[:, :, 1] - pixels[:, :, 0] == [89, 119]).all(), "in 4:3, they fill their cells of 120 x 90"
    tops, lefts = np.moveaxis(pixels[:, :, 0], -1, 0)
    assert (tops[:, 0] == tops[:, 1]).all() and (lefts[:, 0] + 120 <= lefts[:, 1]).all(), "a pair stands side by side"
    grid = [np.unique(values[:, 0], return_inverse=True)[1].tolist() for values in (tops, lefts)]
    assert grid == [[0, 0, 1, 1, 2], [0, 1, 0, 1, 0]]


def test_titles_and_headings_are_written_and_a_long_title_stays_within_its_tile():
    images, texts = [plain((255, 0, 0))] * 2, (("", ("", "")), ("", "ab"), ("M" * 500, "ab"))
    sheets = [contact_sheet([(title, images), ("", images)], names, cell_size=(120, 90)) for title, names in texts]
    ink = [(sheet.max(axis=2) < 100).sum() for sheet in sheets]
    end = GAP + 2 * 120 + SLIT
    assert ink[0] == 0 < ink[1] < ink[2] and (sheets[2][:, end : end + GAP] == PAPER).all()


# A person that faces us, in units of its height, x from its middle and y from its top: the left side is on our right.
STANDING = {
    "nose": (0.0, 0.08), "eye": (0.025, 0.06), "ear": (0.05, 0.07), "shoulder": (0.11, 0.2), "elbow": (0.17, 0.34),
    "wrist": (0.19, 0.48), "hip": (0.07, 0.5), "knee": (0.08, 0.73), "ankle": (0.09, 0.95), "head": (0.0, 0.0),
    "neck": (0.0, 0.17),
}  # fmt: skip
COCO = list(COCO_PERSON_KEYPOINT_NAMES)
CROWDPOSE = [*COCO[5:], "head", "neck"]
DOG = ["nose", "withers", "tail", "left_fore_paw", "right_fore_paw", "left_hind_paw", "right_hind_paw"]


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


def fields(kind, persons, **others):
    low, high = persons[:, :, :2].min(axis=1), persons[:, :, :2].max(axis=1)
    room = 0.08 * (high - low)
    return {f"{kind}_keypoints": persons, f"{kind}_boxes": np.concatenate([low - room, high + room], axis=1), **others}


def golden_cases():
    """By name: names of keypoints, limbs, height and width of the image, what is drawn, options."""
    small = standing(COCO, 48, 10, 70, swing=0.6)[None]
    small[0, :, 2] = np.linspace(1.0, 0.45, len(COCO))  # confidences fall from head to foot
    large = np.stack([standing(COCO, 420, 120, 780, swing=1.2), standing(COCO, 900, 420, 300)])
    crowd = [standing(CROWDPOSE, 45 + 62 * i, 60 + 9 * (i % 3), 190, swing=0.25 * (i % 4)) for i in range(10)]
    crowd += [standing(CROWDPOSE, 40 + 62 * i, 235 + 7 * (i % 2), 220, swing=0.2 * (i % 5)) for i in range(10)]
    twenty = fields("pred", np.stack(crowd), scores=np.linspace(0.99, 0.4, 20))
    by_person = {"color_by": "person", "confidence": "none"}
    dog = np.array([(20, 40), (60, 45), (150, 50), (50, 120), (75, 118), (140, 120), (165, 116)], float)
    dogs, dog_limbs = np.stack([dog, 0.6 * dog + (230, 60)]), ((0, 1), (1, 2), (1, 3), (1, 4), (2, 5), (2, 6))
    visible = np.full((2, len(DOG), 1), 2.0)
    visible[0, 6], visible[1, 2] = 1, 0  # a hidden paw is hollow, the tail of the second has no label
    truth = fields("gt", np.concatenate([dogs, visible], axis=2))
    return {
        "coco_small": (COCO, None, (90, 96), fields("pred", small, scores=[0.87]), {}),
        "coco_large": (COCO, None, (960, 1280), fields("pred", large, scores=[0.98, 0.61]), by_person),
        "crowdpose_twenty": (CROWDPOSE, None, (480, 640), twenty, {}),
        "custom_truth": (DOG, dog_limbs, (160, 380), truth, {"confidence": "none"}),
    }


CASES = golden_cases()


def drawn(case):
    """On a dark wall, a light floor and a white door, on all of which lines must be visible."""
    names, limbs, (height, width), persons, options = CASES[case]
    image = np.full((height, width, 3), (70, 80, 90), np.uint8)
    image[int(0.6 * height) :] = (190, 180, 160)
    image[int(0.1 * height) : int(0.6 * height), int(0.7 * width) : int(0.9 * width)] = 245
    skeleton = Skeleton(names, flip_pairs_by_name(names), limbs or limbs_by_name(names), known_sigmas(names))
    return draw_poses(image, persons, skeleton, **options)


@pytest.mark.parametrize("case", CASES)
def test_the_drawing_is_the_golden_image(case):
    golden, image = np.asarray(Image.open(FOLDER / f"drawn_{case}.png")), drawn(case)
    assert image.shape == golden.shape
    difference = np.abs(image.astype(float) - golden)
    assert (difference.max(axis=2) > 32).mean() < 0.001, f"review it: python {Path(__file__).name} writes it again"
    assert difference.mean() < 0.1, "many pixels differ a little"


if __name__ == "__main__":
    for case in CASES:
        Image.fromarray(drawn(case)).save(FOLDER / f"drawn_{case}.png", optimize=True)
