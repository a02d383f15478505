"""draw_poses: thresholds, geometry, robustness; colors and marks are those of the golden images."""

import itertools

import numpy as np
import pytest

from querypose.errors import UserError
from querypose.skeleton import SIDE_COLORS, Skeleton
from querypose.visualization import draw_poses as module
from querypose.visualization.draw_poses import PERSON_COLORS, coco_fields, draw_poses, label_size

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
    keypoints = np.concatenate([person({1: (100, 100), 3: (100, 200)}), person({1: (300, 100), 3: (300, 200)})])
    image = draw(predictions(keypoints, scores=[0.49, 0.5]), score_threshold=0.5)
    assert not changed(image)[:, :200].any() and changed(image)[:, 200:].any()
    nothing = draw(predictions(keypoints, scores=[0.1, 0.19]), show_boxes=True, show_scores=True)
    assert not changed(nothing).any()
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
    boxes = [[np.nan] * 4, [600, 10, 700, 90], [-1e12, -1e12, 1e12, 1e12]]
    image = draw(predictions(np.zeros((3, 6, 3)), boxes), show_boxes=True)
    assert not changed(image)[10:-10, 10:-10].any() and tuple(image[0, 0]) == PERSON_COLORS[2]
    draw(predictions(np.zeros((3, 6, 3)), boxes), show_boxes=True, show_scores=True)


def test_scores_do_not_cover_each_other(monkeypatch):
    plates = []

    def record(canvas, text, top_left, size, background):
        plates.append((text, *top_left, *label_size(text, size)))

    monkeypatch.setattr(module, "draw_label", record)
    boxes = [[100, 100, 300, 300], [101, 101, 301, 301], [102, 100, 302, 300], [-20, -30, 60, 80]]
    draw(predictions(np.zeros((4, 6, 3)), boxes, [0.9, 0.8, 0.7, 0.654]), show_scores=True)
    assert sorted(text for text, *_ in plates) == ["0.65", "0.70", "0.80", "0.90"]
    for _, x, y, width, height in plates:
        assert 0 <= x <= 500 - width and 0 <= y <= 400 - height
    for (_, x0, y0, width, height), (_, x1, y1, *_) in itertools.combinations(plates, 2):
        assert abs(x0 - x1) >= width or abs(y0 - y1) >= height


def test_fields_of_coco_entries():
    labeled = {"bbox": [10, 20, 30, 40], "keypoints": [float(v) for v in range(18)], "score": 0.7}
    truth = coco_fields([labeled, {"bbox": [1, 2, 3, 4]}], 6, ground_truth=True, offset=0.0)
    assert truth["gt_boxes"].tolist() == [[10, 20, 40, 60], [1, 2, 4, 6]] and "scores" not in truth
    assert truth["gt_keypoints"][0].tolist() == np.arange(18.0).reshape(6, 3).tolist()
    # as a rule with Detectron2's half pixel
    poses = coco_fields([labeled], 6, ground_truth=False)
    assert poses["pred_keypoints"][0, 1].tolist() == [3.5, 4.5, 5] and poses["scores"].tolist() == [0.7]
    assert "pred_boxes" not in coco_fields([{"keypoints": [0] * 18, "score": 0.7}], 6, ground_truth=False)
    assert not changed(draw(coco_fields([], 6, ground_truth=True))).any()


def test_unusable_arguments_are_rejected():
    for instances, options, reason in (
        (predictions(np.zeros((1, 4, 3))), {}, "4 keypoints but the skeleton has 6"),
        ({"scores": np.zeros(1)}, {}, "neither pred_keypoints nor gt_keypoints"),
        (predictions(np.zeros((1, 6, 3))), {"color_by": "red"}, "color_by must be one of"),
    ):
        with pytest.raises(UserError, match=reason):
            draw(instances, **options)
