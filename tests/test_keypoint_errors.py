"""Errors by keypoint: closed forms, swapped sides, missed persons, and the plot."""

import math

import numpy as np
import pytest
from evaluation_data import ground_truth_of, results_near
from PIL import Image

from querypose.evaluation import keypoint_errors
from querypose.visualization.plots import plot_keypoint_errors


def four_corners(*labels):
    """One person of area 10,000 with a head and two hands far apart."""
    truth = ground_truth_of()
    keypoints = [50.0, 10.0, labels[0], 90.0, 60.0, labels[1], 10.0, 60.0, labels[2]]
    truth["annotations"][0].update(
        bbox=[0.0, 0.0, 100.0, 100.0], area=1e4, keypoints=keypoints, num_keypoints=sum(v > 0 for v in labels)
    )
    return truth, {"image_id": 1, "category_id": 1, "score": 0.5, "keypoints": keypoints}


def test_similarity_is_the_term_of_oks():
    truth, result = four_corners(2, 2, 0)
    result = {**result, "keypoints": list(result["keypoints"])}
    result["keypoints"][0] += 10  # sigma .05 and area 100^2: exp(-10^2 / (2 * 10^4 * .1^2)) = exp(-1/2)
    errors = keypoint_errors(truth, [result])
    assert (errors.num_persons, errors.num_found) == (1, 1)
    assert errors.num_labeled.tolist() == [1, 1, 0]
    assert errors.similarity[:2].tolist() == pytest.approx([math.exp(-0.5), 1]) and np.isnan(errors.similarity[2])
    assert errors.precision[:2].tolist() == pytest.approx([0.3, 1])  # .50, .55, .60 of ten thresholds
    assert errors.median_error[:2].tolist() == pytest.approx([10, 0])
    assert errors.kinds[:2].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    head, _, right = errors.to_dict()["keypoints"].values()
    assert head["similarity"] == pytest.approx(60.65) and head["AP-like"] == 30 and head["jitter"] == 100
    assert right["similarity"] is None and right["labelled"] == 0


def test_swapped_hands_are_inversions_and_others_misses():
    truth, result = four_corners(2, 2, 2)
    truth["annotations"][0]["keypoints"][0:2] = [50.0, 50.0]
    swapped = {**result, "keypoints": [50.0, 50.0, 1, 10.0, 60.0, 1, 10.0, 60.0, 1]}
    errors = keypoint_errors(truth, [swapped])
    assert errors.kinds.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    astray = {**result, "keypoints": [50.0, 50.0, 1, 50.0, 99.0, 1, 10.0, 60.0, 1]}
    assert keypoint_errors(truth, [astray]).kinds[1].tolist() == [0, 0, 0, 1]


def test_mean_oks_is_that_of_each_persons_best_pose():
    truth, result = four_corners(2, 2, 0)
    # 20 pixels off, sigmas .05 and .1: exp(-2) and exp(-1/2), an OKS of 0.371, at which no person is found
    off = {**result, "keypoints": [70.0, 10.0, 1, 90.0, 80.0, 1, 0, 0, 1], "score": 0.1}
    far = {**result, "keypoints": [900.0] * 9, "score": 0.9}
    errors = keypoint_errors(truth, [far, off])
    assert (errors.num_persons, errors.num_found) == (1, 0) and np.isnan(errors.similarity).all()
    assert errors.mean_oks == pytest.approx((math.exp(-0.5) + math.exp(-2)) / 2)
    assert keypoint_errors(truth, [far, off, result]).mean_oks == 1
    assert keypoint_errors(truth, []).mean_oks == 0
    # a second person that nobody finds counts as 0; without persons there is no mean
    second = {**truth["annotations"][0], "id": 99, "bbox": [500.0, 500.0, 100.0, 100.0]}
    second["keypoints"] = [value + 500 if i % 3 < 2 else value for i, value in enumerate(second["keypoints"])]
    both = {**truth, "annotations": [truth["annotations"][0], second]}
    assert keypoint_errors(both, [result]).mean_oks == pytest.approx(0.5)
    assert keypoint_errors(both, [result]).to_dict()["mean_oks"] == 50
    assert keypoint_errors({**truth, "annotations": []}, []).to_dict()["mean_oks"] is None


@pytest.mark.parametrize("number", [1, 17, 133])
def test_picture(tmp_path, number):
    names = [f"keypoint_{i}" for i in range(number)]
    truth = ground_truth_of(num_images=2)
    truth["categories"][0] = {"id": 1, "name": "thing", "keypoints": names}
    for person in truth["annotations"]:
        person.update(keypoints=[10.0, 10.0, 2] * number, num_keypoints=number)
    plot_keypoint_errors(keypoint_errors(truth, results_near(truth, 0.05)), tmp_path / "a" / "plot.png", "things")
    assert Image.open(tmp_path / "a" / "plot.png").size[0] > 300
    plot_keypoint_errors(keypoint_errors(truth, []), tmp_path / "nobody.png")
