"""Errors by keypoint in closed form, and reliability of sigmas by numbers that follow from how errors were drawn."""

import math

import numpy as np
import pytest
from evaluation_data import ground_truth_of

from querypose.errors import UserError
from querypose.evaluation import keypoint_errors
from querypose.evaluation.ground_truth import load_ground_truth
from querypose.evaluation.reliability import fit_temperature, halves, keypoint_deviations, reliability
from querypose.visualization.plots import plot_keypoint_errors, plot_reliability


def four_corners(*labels, shifts=(0, 0, 0)):
    """One person of area 10,000 with a head and two hands far apart, and a pose whose keypoints are so far right."""
    truth = ground_truth_of()
    keypoints = [50.0, 10.0, labels[0], 90.0, 60.0, labels[1], 10.0, 60.0, labels[2]]
    truth["annotations"][0].update(
        bbox=[0.0, 0.0, 100.0, 100.0], area=1e4, keypoints=keypoints, num_keypoints=sum(v > 0 for v in labels)
    )
    found = [50.0 + shifts[0], 10.0, 1, 90.0 + shifts[1], 60.0, 1, 10.0 + shifts[2], 60.0, 1]
    return truth, {"image_id": 1, "category_id": 1, "score": 0.5, "keypoints": found}


def test_similarity_is_the_term_of_oks():
    # sigma .05 and area 100^2: exp(-10^2 / (2 * 10^4 * .1^2)) = exp(-1/2)
    truth, result = four_corners(2, 2, 0, shifts=(10, 0, 0))
    errors = keypoint_errors(truth, [result])
    assert (errors["persons"], errors["found"]) == (1, 1)
    head, left, right = errors["keypoints"].values()
    # of ten thresholds .50, .55, .60
    expected = {"labelled": 1, "similarity": 60.65, "AP-like": 30, "median_error_pixels": 10}
    assert head == expected | {"good": 0, "jitter": 100, "inversion": 0, "miss": 0}
    assert (left["similarity"], left["AP-like"], left["median_error_pixels"], left["good"]) == (100, 100, 0, 100)
    assert right == {"labelled": 0, **dict.fromkeys(list(right)[1:])}


@pytest.mark.parametrize(("shift", "kind"), [(-80, "inversion"), (-40, "miss")])
def test_swapped_hands_are_inversions_and_others_misses(shift, kind):
    truth, result = four_corners(2, 2, 2, shifts=(0, shift, 0))
    head, left, right = keypoint_errors(truth, [result])["keypoints"].values()
    assert head["good"] == left[kind] == right["good"] == 100


def test_mean_oks_is_that_of_each_persons_best_pose():
    # 20 pixels off, sigmas .05 and .1: exp(-2) and exp(-1/2), an OKS of 0.371, at which no person is found
    truth, off = four_corners(2, 2, 0, shifts=(20, 20, 0))
    _, exact = four_corners(2, 2, 0)
    far = {**exact, "keypoints": [900.0] * 9, "score": 0.9}
    errors = keypoint_errors(truth, [far, off])
    assert (errors["persons"], errors["found"]) == (1, 0) and errors["keypoints"]["head"]["similarity"] is None
    assert errors["mean_oks"] == pytest.approx(50 * (math.exp(-0.5) + math.exp(-2)), abs=0.005)
    # a second person that nobody finds counts as 0
    second = {**truth["annotations"][0], "bbox": [500.0, 500.0, 100.0, 100.0], "keypoints": [600.0, 600.0, 2] * 3}
    both = {**truth, "annotations": [truth["annotations"][0], second]}
    for content, poses, mean in ((truth, [far, off, exact], 100), (truth, [], 0), (both, [exact], 50)):
        assert keypoint_errors(content, poses)["mean_oks"] == mean


def test_picture_of_nobody(tmp_path):
    plot_keypoint_errors(keypoint_errors(ground_truth_of(), []), tmp_path / "nobody.png", "things")


RNG = np.random.default_rng(0)
SIGMAS = RNG.uniform(1, 10, 200_000)
ERRORS = SIGMAS * RNG.standard_normal(200_000)


def test_gaussian_errors_of_the_predicted_sigma_are_calibrated():
    found = reliability(SIGMAS, ERRORS)
    assert found.ence < 0.02
    # tenths of a uniform distribution: the mean square of [a, b] is (a^2 + ab + b^2) / 3
    low = np.linspace(1, 9.1, 10)
    np.testing.assert_allclose(found.predicted, np.sqrt((low**2 + low * (low + 0.9) + (low + 0.9) ** 2) / 3), rtol=0.01)
    assert fit_temperature(SIGMAS, ERRORS) == pytest.approx(1, rel=0.01)


def test_a_wrong_scale_is_found_and_changes_no_rank(tmp_path):
    four, one = reliability(4 * SIGMAS, ERRORS), reliability(SIGMAS, ERRORS)
    assert four.ence == pytest.approx(0.75, abs=0.01), "|4 - 1| / 4"
    assert fit_temperature(4 * SIGMAS, ERRORS) == pytest.approx(0.25, rel=0.01)
    assert four.rank_correlation == pytest.approx(one.rank_correlation) and 0.3 < one.rank_correlation < 0.6
    assert reliability(SIGMAS, SIGMAS).rank_correlation == pytest.approx(1)
    assert abs(reliability(SIGMAS, RNG.permutation(ERRORS)).rank_correlation) < 0.02
    plot_reliability({"raw": four, "scaled": one}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_halves_are_by_image():
    images = np.repeat(np.arange(10), 3)
    first, second = halves(images, seed=1)
    assert len(set(images[first])) == len(set(images[second])) == 5 and not (first & second).any()
    assert (first == halves(images, seed=1)[0]).all() and (first != halves(images, seed=2)[0]).any()


def test_deviations_are_of_labeled_keypoints_of_persons_found():
    content = ground_truth_of(num_images=2)
    for entry in content["annotations"]:
        entry.update(bbox=[0, 0, 100, 200], area=20_000, keypoints=[10, 20, 2, 50, 60, 1, 0, 0, 0], num_keypoints=2)
    truth = load_ground_truth(content, sigmas=[0.1, 0.1, 0.1])
    pose = {"image_id": 1, "category_id": 1, "score": 0.9, "bbox": [0, 0, 100, 200]}
    pose |= {"keypoints": [11, 18, 0.9, 50.5, 60, 0.8, 7, 7, 0.7], "keypoint_sigmas": [1, 2, 3, 4, 5, 6]}
    away = pose | {"keypoints": [290, 290, 1] * 3, "score": 0.5}
    sigmas, errors, sides, images = keypoint_deviations(truth, [away, pose])
    assert errors.tolist() == [1, -2, 0.5, 0] and sigmas.tolist() == [1, 2, 3, 4]
    assert sides.tolist() == [100, 200, 100, 200] and images.tolist() == [0] * 4
    both = keypoint_deviations(truth, [pose | {"image_id": 2}, away, pose])
    assert both[3].tolist() == [0] * 4 + [1] * 4
    del away["keypoint_sigmas"]
    with pytest.raises(UserError, match="no keypoint_sigmas"):
        keypoint_deviations(truth, [away])
    with pytest.raises(UserError, match="4 coordinates .* too few for 10 bins"):
        reliability(sigmas, errors)
