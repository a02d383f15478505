"""draw_poses: colors by side, thresholds, geometry, robustness."""

import importlib
import itertools

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances, Keypoints

from querypose.errors import UserError
from querypose.skeleton import Skeleton
from querypose.visualization import Poses, draw_poses

# The package's function has the module's name.
module = importlib.import_module("querypose.visualization.draw_poses")
SIDE_COLORS, PERSON_COLORS = module.SIDE_COLORS, module.PERSON_COLORS

SKELETON = Skeleton(
    keypoint_names=("head", "left_hand", "right_hand", "left_foot", "right_foot", "tail"),
    flip_pairs=(("left_hand", "right_hand"), ("left_foot", "right_foot")),
    limbs=((1, 3), (2, 4), (0, 5), (1, 2), (0, 3)),
    sigmas=(0.05,) * 6,
)
HEAD, LEFT_HAND, RIGHT_HAND, LEFT_FOOT, RIGHT_FOOT, TAIL = range(6)
BACKGROUND = 128


def blank(height=400, width=500):
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def person(points, confidence=1.0, num_keypoints=6):
    """One person (1, K, 3) of {index: (x, y) or (x, y, confidence)}; the others have confidence 0."""
    keypoints = np.zeros((1, num_keypoints, 3))
    for index, point in points.items():
        keypoints[0, index] = (*point, confidence)[:3]
    return keypoints


def predictions(keypoints, boxes=None, scores=None):
    n = len(keypoints)
    boxes = np.tile([50.0, 50.0, 450.0, 350.0], (n, 1)) if boxes is None else np.asarray(boxes, float)
    return {
        "pred_keypoints": keypoints,
        "pred_boxes": boxes,
        "scores": np.ones(n) if scores is None else np.asarray(scores, float),
    }


def draw(instances, image=None, **options):
    options = {"scale": 1, "show_boxes": False, "show_scores": False} | options
    return draw_poses(blank() if image is None else image, instances, SKELETON, **options)


def changed(image):
    return (image != BACKGROUND).any(axis=2)


@pytest.mark.parametrize(
    "ends, side",
    [
        ((LEFT_HAND, LEFT_FOOT), "left"),
        ((RIGHT_HAND, RIGHT_FOOT), "right"),
        ((HEAD, TAIL), "middle"),
        ((LEFT_HAND, RIGHT_HAND), "middle"),
        ((HEAD, LEFT_FOOT), "left"),
    ],
)
def test_a_limb_has_the_color_of_its_side(ends, side):
    first = person({ends[0]: (100.5, 100.5), ends[1]: (300.5, 200.5)})
    image = draw(predictions(np.concatenate([first, first + (0, 150, 0)])))
    assert tuple(image[150, 200]) == tuple(image[300, 200]) == SIDE_COLORS[side], "the same for every person"


def test_persons_below_the_score_threshold_are_not_drawn():
    keypoints = np.concatenate([person({1: (100, 100), 3: (100, 200)}), person({1: (300, 100), 3: (300, 200)})])
    image = draw(predictions(keypoints, scores=[0.49, 0.5]), score_threshold=0.5, show_boxes=False, show_scores=False)
    assert not changed(image)[:, :200].any()
    assert changed(image)[:, 200:].any()
    nothing = draw(predictions(keypoints, scores=[0.1, 0.2]), show_boxes=True, show_scores=True)
    assert not changed(nothing).any()


def test_a_limb_needs_both_ends_above_the_keypoint_threshold():
    points = {1: (100, 100, 1.0), 3: (100, 200, 0.39), 2: (300, 100, 1.0), 4: (300, 200, 0.41)}
    image = draw(predictions(person(points)), keypoint_threshold=0.4)
    assert not changed(image)[120:, :200].any()
    assert changed(image)[90:110, 90:110].any()
    assert changed(image)[150, 295:305].any()


def test_a_surer_keypoint_is_larger_and_more_opaque():
    areas, errors = [], []
    for confidence in (0.55, 0.75, 1.0):
        image = draw(predictions(person({1: (100.5, 100.5, confidence)})))
        areas.append(changed(image).sum())
        errors.append(np.abs(image[100, 100].astype(int) - SIDE_COLORS["left"]).sum())
    assert areas[0] < areas[1] < areas[2]
    assert errors[0] > errors[1] > errors[2] == 0


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_mark_is_centered_on_its_keypoint(scale):
    image = draw(predictions(person({1: (120.25, 80.75)})), scale=scale)
    rows, columns = np.nonzero(changed(image))
    # The centre of pixel i lies at i + 0.5.
    assert columns.mean() + 0.5 == pytest.approx(120.25 * scale, abs=0.1)
    assert rows.mean() + 0.5 == pytest.approx(80.75 * scale, abs=0.1)


@pytest.mark.parametrize(
    "size, scale, expected",
    [
        ((120, 160), 1, (120, 160)),
        ((120, 160), 1.5, (180, 240)),
        ((120, 160), None, (360, 480)),  # the longer side reaches 400 with 3
        ((400, 300), None, (400, 300)),
        ((20, 10), None, (80, 40)),  # never more than 4 times
    ],
)
def test_image_size(size, scale, expected):
    given = blank(*size)
    image = draw(predictions(person({1: (5, 5), 3: (9, 15)})), given, scale=scale)
    assert image.shape == (*expected, 3) and image.dtype == np.uint8
    assert (given == BACKGROUND).all(), "the given image must not change"


def test_a_limb_that_crosses_the_image_from_far_outside_is_drawn_where_it_crosses():
    image = draw(predictions(person({1: (-1e9, 200.5), 3: (1e9, 200.5)})))
    assert (image[200] == SIDE_COLORS["left"]).all()
    assert not changed(image)[:180].any() and not changed(image)[220:].any()


@pytest.mark.parametrize("point", [(-300.0, 50.0), (50.0, 1e12), (np.nan, 50.0), (np.inf, 50.0), (900.0, 900.0)])
def test_a_keypoint_outside_the_image_leaves_it_unchanged(point):
    assert not changed(draw(predictions(person({1: point})))).any()


def test_boxes_that_are_not_finite_or_outside_do_no_harm():
    boxes = [[np.nan] * 4, [600, 10, 700, 90], [-1e12, -1e12, 1e12, 1e12]]
    image = draw(predictions(np.zeros((3, 6, 3)), boxes), show_boxes=True, show_scores=False, score_threshold=0.0)
    assert not changed(image)[10:-10, 10:-10].any()
    assert tuple(image[0, 0]) == PERSON_COLORS[2]
    draw(predictions(np.zeros((3, 6, 3)), boxes), show_boxes=True, show_scores=True)


def test_each_person_has_a_box_of_its_own_color():
    boxes = [[50, 50, 150, 150], [200, 50, 300, 150]]
    image = draw(predictions(np.zeros((2, 6, 3)), boxes), show_boxes=True)
    colors = tuple(image[100, 50]), tuple(image[100, 200])
    assert colors == PERSON_COLORS[:2] and colors[0] != colors[1]
    assert not changed(draw(predictions(np.zeros((2, 6, 3)), boxes), show_boxes=False)).any()


def test_scores_do_not_cover_each_other(monkeypatch):
    plates = []

    def record(canvas, text, top_left, size, background):
        plates.append((text, *top_left, *module.label_size(text, size)))

    monkeypatch.setattr(module, "draw_label", record)
    boxes = [[100, 100, 300, 300], [101, 101, 301, 301], [102, 100, 302, 300], [-20, -30, 60, 80]]
    draw(predictions(np.zeros((4, 6, 3)), boxes, [0.9, 0.8, 0.7, 0.654]), show_scores=True)
    assert sorted(text for text, *_ in plates) == ["0.65", "0.70", "0.80", "0.90"]
    for _, x, y, width, height in plates:
        assert 0 <= x <= 500 - width and 0 <= y <= 400 - height
    for (_, x0, y0, width, height), (_, x1, y1, *_) in itertools.combinations(plates, 2):
        assert abs(x0 - x1) >= width or abs(y0 - y1) >= height


def test_ground_truth_marks_hidden_keypoints_and_leaves_out_unlabeled_ones():
    instances = Instances((400, 500))
    instances.gt_boxes = Boxes(torch.tensor([[50.0, 50.0, 450.0, 350.0]]))
    keypoints = person({1: (100.5, 100.5, 2), 3: (100.5, 300.5, 1), 2: (300.5, 100.5, 2), 4: (300.5, 300.5, 0)})
    instances.gt_keypoints = Keypoints(torch.tensor(keypoints, dtype=torch.float32))
    image = draw(instances)
    assert tuple(image[100, 100]) == SIDE_COLORS["left"]
    assert image[300, 100].max() < BACKGROUND, "a hidden keypoint is hollow"
    assert changed(image)[200, 95:105].any(), "a limb to a hidden keypoint is drawn"
    assert not changed(image)[120:, 200:].any(), "nothing leads to an unlabeled keypoint"


def test_instances_and_arrays_give_the_same_image():
    arrays = predictions(person({1: (100, 100), 3: (200, 300)}), scores=[0.8])
    instances = Instances((400, 500))
    instances.pred_boxes = Boxes(torch.tensor(arrays["pred_boxes"], dtype=torch.float32))
    instances.scores = torch.tensor(arrays["scores"], dtype=torch.float32)
    instances.pred_keypoints = torch.tensor(arrays["pred_keypoints"], dtype=torch.float32, requires_grad=True)
    options = {"show_boxes": True, "show_scores": True}
    assert np.array_equal(draw(instances, **options), draw(arrays, **options))


def test_poses_of_a_dataset_record():
    record = {
        "annotations": [
            {"bbox": [10, 20, 30, 40], "keypoints": [float(v) for v in range(18)], "iscrowd": 0},
            {"bbox": [0, 0, 9, 9], "iscrowd": 1},
            {"bbox": [1, 2, 3, 4]},
        ]
    }
    poses = Poses.from_dataset_record(record, 6)
    assert poses.boxes.tolist() == [[10, 20, 40, 60], [1, 2, 4, 6]]
    assert poses.keypoints[0].tolist() == np.arange(18.0).reshape(6, 3).tolist()
    assert not poses.keypoints[1].any() and poses.ground_truth
    assert Poses.from_dataset_record({}, 6).keypoints.shape == (0, 6, 3)
    assert not changed(draw(Poses.from_dataset_record({}, 6))).any()


def test_unusable_persons_are_rejected():
    with pytest.raises(UserError, match="4 keypoints but the skeleton has 6"):
        draw(predictions(np.zeros((1, 4, 3))))
    with pytest.raises(UserError, match="neither pred_keypoints nor gt_keypoints"):
        draw({"scores": np.zeros(1)})
