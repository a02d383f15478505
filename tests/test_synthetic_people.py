"""The synthetic people: the same images in every run, and labels that agree with the pixels."""

import cv2
import numpy as np
import pytest

from querypose.synthetic import scene as synthetic_scene
from querypose.synthetic.appearance import Appearance
from querypose.synthetic.articulated_person import (
    KEYPOINT_NAMES,
    Pose,
    Proportions,
    pose_body,
    sample_body,
)
from querypose.synthetic.canvas import SUPERSAMPLING
from querypose.synthetic.dataset import render_image
from querypose.synthetic.person_drawing import PART_IDS, render_person

INDEX = {name: i for i, name in enumerate(KEYPOINT_NAMES)}


def plain_look(**changes):
    look = Appearance.sample(np.random.default_rng(0))
    look.skin, look.hair, look.shirt = (
        np.array([240, 205, 175.0]),
        np.array([110, 70, 36.0]),
        np.array([60, 90, 200.0]),
    )
    look.hairstyle, look.back, look.legs, look.sleeves = "short", "plain", "trousers", "short"
    for name, value in changes.items():
        setattr(look, name, value)
    return look


def standing(yaw, stature=150, **changes):
    return render_person(pose_body(Pose(), Proportions(), yaw), plain_look(**changes), stature)


def seen(figure):
    return {name for name, visible in zip(KEYPOINT_NAMES, figure.self_visible(), strict=True) if visible}


def keypoints_of(annotation):
    return np.array(annotation["keypoints"]).reshape(-1, 3)


@pytest.fixture(scope="module")
def scenes():
    return [render_image("test", index) for index in range(60)]


# --- the figure ---


def test_joints_by_hand():
    size = Proportions()
    pose = Pose(arms=np.array([[0, 90, 0, 0], [90, 0, 0, 0]]), legs=np.array([[0, 90, 0, 90], [0, 0, 0, 0]]))
    at = pose_body(pose, size, yaw=0).joints
    # The left arm points to the viewer, the right arm to the image's left; a shank hangs from a level thigh.
    np.testing.assert_allclose(at["left_elbow"] - at["left_shoulder"], [0, 0, size.upper_arm], atol=1e-12)
    np.testing.assert_allclose(at["right_wrist"] - at["right_elbow"], [-size.forearm, 0, 0], atol=1e-12)
    np.testing.assert_allclose(at["left_knee"] - at["left_hip"], [0, 0, size.thigh], atol=1e-12)
    np.testing.assert_allclose(at["left_ankle"] - at["left_knee"], [0, size.shank, 0], atol=1e-12)
    np.testing.assert_allclose(at["left_shoulder"] - at["right_shoulder"], [2 * size.shoulder, 0, 0], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_bones_keep_their_lengths_in_every_pose(seed):
    body = sample_body(np.random.default_rng(seed))
    for side in ("left", "right"):
        for start, end, bone in (
            ("shoulder", "elbow", "upper_arm"),
            ("elbow", "wrist", "forearm"),
            ("hip", "knee", "thigh"),
            ("knee", "ankle", "shank"),
        ):
            length = np.linalg.norm(body.joints[f"{side}_{end}"] - body.joints[f"{side}_{start}"])
            assert length == pytest.approx(getattr(body.proportions, bone))


def test_sides_are_the_persons_own():
    front, back = standing(0), standing(180)
    pairs = [(INDEX[n], INDEX[n.replace("left", "right")]) for n in KEYPOINT_NAMES if n.startswith("left")]
    for left, right in pairs:
        assert front.keypoints[left, 0] > front.keypoints[right, 0]
        assert back.keypoints[left, 0] < back.keypoints[right, 0]
    # Who faces the image's right shows the right side; the nose leads.
    profile = standing(90)
    nose, ear = profile.keypoints[INDEX["nose"]], profile.keypoints[INDEX["right_ear"]]
    assert nose[0] > ear[0] + 5
    assert {"nose", "right_eye", "right_ear", "right_shoulder", "right_elbow", "right_knee"} <= seen(profile)
    assert not {"left_eye", "left_ear", "left_shoulder", "left_elbow", "left_hip"} & seen(profile)


def test_an_arm_behind_the_body_is_hidden():
    pose = Pose(arms=np.array([[0, -35, 50, 60], [8, 0, 0, 10]]))
    figure = render_person(pose_body(pose, Proportions(), 0), plain_look(), 150)
    assert "left_wrist" not in seen(figure) and "right_wrist" in seen(figure)
    turned = render_person(pose_body(pose, Proportions(), 180), plain_look(), 150)
    assert {"left_wrist", "right_wrist"} <= seen(turned)


@pytest.mark.parametrize("yaw", [0, 20, -20])
def test_eyes_are_where_the_labels_say(yaw):
    figure = standing(yaw, stature=400)
    dark = (figure.color.astype(int).sum(axis=2) < 150) & (figure.parts == PART_IDS["head"])
    for side in ("left", "right"):
        x, y = figure.keypoints[INDEX[f"{side}_eye"]]
        rows, columns = np.mgrid[int(y) - 11 : int(y) + 12, int(x) - 11 : int(x) + 12]
        pupil = dark[rows, columns]
        assert pupil.sum() > 20
        assert (columns[pupil] + 0.5).mean() == pytest.approx(x, abs=1.5)
        assert (rows[pupil] + 0.5).mean() == pytest.approx(y, abs=1.5)


# --- the scene ---


def test_labels_lie_in_image_and_box(scenes):
    for image, annotations in scenes:
        height, width = image.shape[:2]
        for annotation in annotations:
            points = keypoints_of(annotation)
            labeled = points[:, 2] > 0
            assert set(points[:, 2]) <= {0, 1, 2}
            assert annotation["num_keypoints"] == labeled.sum() >= 4
            assert (points[~labeled] == 0).all()
            place = points[labeled, :2] + 0.5
            assert (place >= 0).all() and (place < [width, height]).all()
            x, y, w, h = annotation["bbox"]
            assert 0 <= x and 0 <= y and x + w <= width and y + h <= height
            assert (place >= [x - 0.5, y - 0.5]).all() and (place <= [x + w + 0.5, y + h + 0.5]).all()
            assert 0.05 * w * h < annotation["area"] <= w * h


def place(figure, column, row, shape):
    return synthetic_scene._Placed(figure, column, row, shape)


def owner_of(persons, shape):
    owner = np.zeros(shape, np.uint8)
    for number, person in reversed(list(enumerate(persons, start=1))):
        owner[person.scene][person.drawn] = number
    return owner


def test_box_and_area_are_the_silhouettes():
    shape, figure = (384, 448), standing(0)
    person = place(figure, 90, 30, shape)
    annotation = synthetic_scene._annotate(person, 1, owner_of([person], shape))
    points = cv2.findNonZero(figure.silhouette.astype(np.uint8))
    x, y, w, h = cv2.boundingRect(points)
    expected = np.array([x + 90, y + 30, w, h]) / SUPERSAMPLING
    assert annotation["bbox"] == expected.tolist()
    assert annotation["area"] == len(points) / SUPERSAMPLING**2
    nose = (figure.keypoints[INDEX["nose"]] + [90, 30]) / SUPERSAMPLING
    np.testing.assert_allclose(annotation["keypoints"][:3], [*(nose - 0.5), 2], atol=0.01)


def test_a_person_behind_another_is_hidden():
    shape, figure = (384, 448), standing(0)
    near, far = place(figure, 100, 20, shape), place(figure, 104, 16, shape)
    owner = owner_of([near, far], shape)
    in_front, behind = (synthetic_scene._annotate(p, n, owner) for n, p in enumerate([near, far], start=1))
    assert set(keypoints_of(in_front)[:, 2]) == {2}
    assert set(keypoints_of(behind)[:, 2]) == {1}
    # Hidden parts count in box and area.
    assert behind["bbox"][2:] == in_front["bbox"][2:] and behind["area"] == in_front["area"]


def test_the_far_side_of_a_head_is_not_labelled():
    shape, figure = (384, 448), standing(180)
    person = place(figure, 100, 20, shape)
    annotation = synthetic_scene._annotate(person, 1, owner_of([person], shape))
    unlabeled = {n for n, (_, _, v) in zip(KEYPOINT_NAMES, keypoints_of(annotation), strict=True) if v == 0}
    assert unlabeled == {"nose", "left_eye", "right_eye"}


def test_what_leaves_the_image_is_not_labelled():
    shape, figure = (384, 448), standing(0)
    hips = figure.keypoints[INDEX["left_hip"], 1]
    person = place(figure, 100, int(shape[0] - hips - 20), shape)  # the lower border runs below the hips
    annotation = synthetic_scene._annotate(person, 1, owner_of([person], shape))
    outside = {n for n, (_, _, v) in zip(KEYPOINT_NAMES, keypoints_of(annotation), strict=True) if v == 0}
    assert outside == {"left_knee", "right_knee", "left_ankle", "right_ankle"}
    assert annotation["bbox"][1] + annotation["bbox"][3] == shape[0] / SUPERSAMPLING


def test_enough_of_everybody_is_visible():
    shape = (384, 448)
    for seed in range(25):
        rng = np.random.default_rng(seed)
        persons = synthetic_scene._place_persons(rng, shape, 1.0)
        owner = owner_of(persons, shape)
        synthetic_scene._place_objects(rng, owner, persons)
        for number, person in enumerate(persons, start=1):
            assert ((owner[person.scene] == number) & person.silhouette).sum() >= 0.35 * person.silhouette.sum()
