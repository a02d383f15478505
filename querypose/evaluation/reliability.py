"""Whether predicted sigmas say how far off keypoints are: predicted against real errors of the persons found."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from querypose.errors import UserError
from querypose.evaluation.ground_truth import Entries, GroundTruth
from querypose.evaluation.matching import match_poses


@dataclass(frozen=True)
class Reliability:
    """Bins of as many coordinates each, by predicted sigma.

    Attributes:
        predicted: (bins,) root mean square of the sigmas of a bin, in pixels.
        real: (bins,) root mean square of the errors of the same coordinates, in pixels.
        number: coordinates in all bins.
        ence: expected normalized calibration error, the mean over the bins of |predicted - real| / predicted (Levi et
            al., 2022); 0 is perfect.
        rank_correlation: Spearman's, of sigmas and absolute errors.
    """

    predicted: np.ndarray
    real: np.ndarray
    number: int
    ence: float
    rank_correlation: float


def reliability(sigmas: np.ndarray, errors: np.ndarray, num_bins: int = 10) -> Reliability:
    """The `Reliability` of sigmas (n,) above 0 and signed errors (n,), both in pixels; at least one of each per bin.

    Raises `UserError` for fewer.
    """
    if len(sigmas) < num_bins:
        raise UserError(f"{len(sigmas)} coordinates of persons found are too few for {num_bins} bins; give more images")
    bins = np.array_split(np.argsort(sigmas, kind="stable"), num_bins)
    predicted = np.array([np.sqrt((sigmas[rows] ** 2).mean()) for rows in bins])
    real = np.array([np.sqrt((errors[rows] ** 2).mean()) for rows in bins])
    ence = float((np.abs(predicted - real) / predicted).mean())
    rank = float(spearmanr(sigmas, np.abs(errors)).statistic)
    return Reliability(predicted, real, len(sigmas), ence, rank)


def fit_temperature(sigmas: np.ndarray, errors: np.ndarray, num_bins: int = 10) -> float:
    """The factor for all sigmas with which predicted and real errors of the bins agree: exp of the mean log ratio.

    The bins keep a few far errors from deciding, as they would in the ratio of all.
    """
    bins = reliability(sigmas, errors, num_bins)
    return float(np.exp(np.log(bins.real.clip(1e-9) / bins.predicted).mean()))


def keypoint_deviations(ground_truth: GroundTruth, results: Entries) -> dict[str, np.ndarray]:
    """Sigmas and errors of x and y of the labeled keypoints of the persons found, see `ImageMatching`.

    Args:
        ground_truth: `GroundTruth`.
        results: COCO-format results with `keypoint_sigmas`, as of `querypose.structures.to_coco`.

    Returns:
        Arrays (n,): `sigmas` and signed `errors` in pixels, `sides` (width or height of the person's box in the ground
        truth, in pixels) and `images` (the image's index in the file).

    Raises:
        UserError: for results without sigmas, or that do not fit the annotations.
    """
    if any("keypoint_sigmas" not in result for result in results):
        raise UserError("the results have no keypoint_sigmas; predict with a model whose keypoint loss uses sigma")
    rows: dict[str, list[Any]] = {"sigmas": [], "errors": [], "sides": [], "images": []}
    for index, image in enumerate(match_poses(ground_truth, results)):
        for person, pose, _ in image.pairs:
            given = np.array(person["keypoints"], dtype=float).reshape(-1, 3)
            found = np.array(pose["keypoints"], dtype=float).reshape(-1, 3)
            labeled = given[:, 2] > 0
            errors = (found - given)[labeled, :2]
            rows["errors"].append(errors.ravel())
            rows["sigmas"].append(np.reshape(pose["keypoint_sigmas"], (-1, 2))[labeled].ravel())
            rows["sides"].append(np.broadcast_to(person["bbox"][2:], errors.shape).ravel())
            rows["images"].append(np.full(errors.size, index))
    return {name: np.concatenate([np.zeros(0), *arrays]) for name, arrays in rows.items()}


def halves(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (n,) of the values of one random half of the images and of the other."""
    names = np.unique(images)
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    first = np.isin(images, chosen)
    return first, ~first
