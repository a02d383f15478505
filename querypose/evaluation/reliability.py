"""Whether predicted sigmas say how far off keypoints are: predicted against real errors of the persons found."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from querypose.errors import UserError
from querypose.evaluation.ground_truth import Entries, GroundTruth
from querypose.evaluation.matching import match_poses, values_of


@dataclass(frozen=True)
class Reliability:
    """Bins of as many coordinates each, by predicted sigma.

    predicted, real: (bins,) root mean squares of the sigmas and of the errors, in pixels. ence: expected normalized
    calibration error, the mean of |predicted - real| / predicted (Levi et al., 2022); 0 is perfect. rank_correlation:
    Spearman's, of sigmas and absolute errors.
    """

    predicted: np.ndarray
    real: np.ndarray
    ence: float
    rank_correlation: float


def reliability(sigmas: np.ndarray, errors: np.ndarray, num_bins: int = 10) -> Reliability:
    """The `Reliability` of sigmas (n,) above 0 and signed errors (n,), both in pixels; `UserError` if n < num_bins."""
    if len(sigmas) < num_bins:
        raise UserError(f"{len(sigmas)} coordinates of persons found are too few for {num_bins} bins; give more images")
    bins = np.array_split(np.argsort(sigmas, kind="stable"), num_bins)
    predicted, real = (np.array([np.sqrt((values[rows] ** 2).mean()) for rows in bins]) for values in (sigmas, errors))
    ence = float((np.abs(predicted - real) / predicted).mean())
    return Reliability(predicted, real, ence, float(spearmanr(sigmas, np.abs(errors)).statistic))


def fit_temperature(sigmas: np.ndarray, errors: np.ndarray) -> float:
    """The factor for all sigmas with which predicted and real errors of the bins agree: exp of the mean log ratio."""
    bins = reliability(sigmas, errors)  # which keep a few far errors from deciding, as in the ratio of all
    return float(np.exp(np.log(bins.real.clip(1e-9) / bins.predicted).mean()))


def keypoint_deviations(ground_truth: GroundTruth, results: Entries) -> list[np.ndarray]:
    """Sigmas and errors of x and y of the labeled keypoints of the persons found, see `ImageMatching`.

    Returns four arrays (n,): sigmas and signed errors in pixels, width or height of the person's true box in pixels,
    and the image's index. results: COCO-format, with `keypoint_sigmas`, as of `Persons.to_coco`.
    """
    if any("keypoint_sigmas" not in result for result in results):
        raise UserError("the results have no keypoint_sigmas; predict with a model whose keypoint loss uses sigma")
    pairs = [(i, *pair) for i, image in enumerate(match_poses(ground_truth, results)) for pair in image.pairs]
    images = np.array([i for i, *_ in pairs], dtype=int)
    persons, poses = [person for _, person, *_ in pairs], [pose for *_, pose, _ in pairs]
    num_keypoints = ground_truth.skeleton.num_keypoints
    given, found = (values_of(entries, "keypoints", num_keypoints, 3) for entries in (persons, poses))
    labeled = given[..., 2] > 0
    rows = np.nonzero(labeled)[0]
    sigmas, sides = values_of(poses, "keypoint_sigmas", num_keypoints, 2), values_of(persons, "bbox", 4)
    values = sigmas[labeled], (found - given)[labeled, :2], sides[rows, 2:], images[rows].repeat(2)
    return [value.ravel() for value in values]


def halves(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (n,) of the values of one random half of the images and of the other."""
    names = np.unique(images)
    first = np.isin(images, np.random.default_rng(seed).permutation(names)[: len(names) // 2])
    return first, ~first
