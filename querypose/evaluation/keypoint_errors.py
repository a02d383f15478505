"""Errors of each keypoint, which the AP of persons does not show."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from querypose.evaluation.ground_truth import Entries, load_ground_truth
from querypose.evaluation.matching import match_poses
from querypose.skeleton import Skeleton

_THRESHOLDS = np.linspace(0.5, 0.95, 10)

KINDS = ("good", "jitter", "inversion", "miss")
"""What a keypoint of a found person can be (Ruggero Ronchi and Perona, 2017): similarity 0.85 and more; 0.5 to 0.85;
less, but at least 0.5 to the place of its mirror image in the same person; none of these."""


@dataclass(frozen=True)
class KeypointErrors:
    """Errors by keypoint, over the persons that were found.

    Poses are matched to persons as of `ImageMatching`. The similarity of a single keypoint is its term of OKS,
    `exp(-d^2 / (2 area (2 sigma)^2))`.

    Attributes:
        names: K keypoint names.
        num_persons, num_found: persons with labels, not ignored by the protocol; those that were found.
        mean_oks: mean over all these persons of the highest OKS that a pose of their image has with them; NaN without
            persons. Where AP is still near zero it tells models apart.
        num_labeled: (K,) labeled keypoints of found persons.
        similarity: (K,) mean similarity; NaN for a keypoint without labels, here and below.
        precision: (K,) AP-like: the share of keypoints with at least a similarity, mean over 0.50, 0.55, .. 0.95.
        median_error: (K,) median distance in pixels.
        kinds: (K, 4) shares of `KINDS`, rows that sum to 1.
    """

    names: tuple[str, ...]
    num_persons: int
    num_found: int
    mean_oks: float
    num_labeled: np.ndarray
    similarity: np.ndarray
    precision: np.ndarray
    median_error: np.ndarray
    kinds: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return it all for JSON, shares in percent, by keypoint; None where there is no label."""
        keypoints: dict[str, dict[str, Any]] = {}
        for i, name in enumerate(self.names):
            shares = {kind: _percent(share) for kind, share in zip(KINDS, self.kinds[i], strict=True)}
            keypoints[name] = {
                "labelled": int(self.num_labeled[i]),
                "similarity": _percent(self.similarity[i]),
                "AP-like": _percent(self.precision[i]),
                "median_error_pixels": None if np.isnan(self.median_error[i]) else float(self.median_error[i]),
                **shares,
            }
        persons = {"persons": self.num_persons, "found": self.num_found, "mean_oks": _percent(self.mean_oks)}
        return {**persons, "keypoints": keypoints}


def keypoint_errors(
    ground_truth: str | os.PathLike[str] | dict[str, Any],
    results: Entries,
    sigmas: Sequence[float] | None = None,
    protocol: str | None = None,
) -> KeypointErrors:
    """Return the `KeypointErrors` of COCO-format results.

    Args:
        ground_truth, sigmas, protocol: as of `load_ground_truth`.
        results: list of COCO-format results with `keypoints`.

    Raises:
        UserError: for results that do not fit the annotations.
    """
    truth = load_ground_truth(ground_truth, sigmas=sigmas, protocol=protocol)
    skeleton = truth.skeleton
    sigma, mirror = np.array(skeleton.sigmas), np.array(skeleton.flip_indices)
    none = np.zeros((0, skeleton.num_keypoints))
    own, mirrored, distances = [none], [none], [none]
    best_oks: list[float] = []
    for image in match_poses(truth, results):
        best_oks += image.best_oks
        for person, pose, _ in image.pairs:
            given = np.array(person["keypoints"], dtype=float).reshape(-1, 3)
            places = np.array(pose["keypoints"], dtype=float).reshape(-1, 3)[:, :2]
            scale = 2 * person["area"] * (2 * sigma) ** 2 + np.spacing(1)
            labeled = given[:, 2] > 0
            squares = ((places - given[:, :2]) ** 2).sum(axis=1)
            to_mirror = ((places - given[mirror, :2]) ** 2).sum(axis=1)
            to_mirror[~labeled[mirror] | (mirror == np.arange(len(mirror)))] = np.inf
            own.append(np.where(labeled, np.exp(-squares / scale), np.nan)[None])
            mirrored.append(np.exp(-to_mirror / scale)[None])
            distances.append(np.where(labeled, np.sqrt(squares), np.nan)[None])
    return _summary(skeleton, best_oks, *map(np.concatenate, (own, mirrored, distances)))


def _summary(
    skeleton: Skeleton, best_oks: list[float], similarity: np.ndarray, mirrored: np.ndarray, distances: np.ndarray
) -> KeypointErrors:
    """Summarise the highest OKS of each person, and (persons found, K) arrays: similarities, those to the mirror
    image, distances in pixels."""
    labeled = ~np.isnan(similarity)
    count = labeled.sum(axis=0)

    def share(condition: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.asarray((condition & labeled).sum(axis=0) / count)

    good = similarity >= 0.85
    jitter = (similarity >= 0.5) & ~good
    inversion = (similarity < 0.5) & (mirrored >= 0.5)
    miss = (similarity < 0.5) & ~inversion
    columns = zip(distances.T, labeled.T, strict=True)
    medians = [np.median(column[mask]) if mask.any() else np.nan for column, mask in columns]
    with np.errstate(invalid="ignore"):
        mean = np.where(labeled, similarity, 0).sum(axis=0) / count
    return KeypointErrors(
        names=tuple(skeleton.keypoint_names),
        num_persons=len(best_oks),
        num_found=len(similarity),
        mean_oks=float(np.mean(best_oks)) if best_oks else float("nan"),
        num_labeled=count,
        similarity=mean,
        precision=np.mean([share(similarity >= threshold) for threshold in _THRESHOLDS], axis=0),
        median_error=np.array(medians),
        kinds=np.stack([share(kind) for kind in (good, jitter, inversion, miss)], axis=1),
    )


def _percent(share: float) -> float | None:
    return None if np.isnan(share) else round(100 * float(share), 2)
