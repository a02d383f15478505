"""Errors of each keypoint, which the AP of persons does not show."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from querypose.evaluation.ground_truth import Entries, GroundTruth, load_ground_truth
from querypose.evaluation.matching import match_poses, values_of

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
                "median_error_pixels": float(self.median_error[i]) if self.num_labeled[i] else None,
                **shares,
            }
        persons = {"persons": self.num_persons, "found": self.num_found, "mean_oks": _percent(self.mean_oks)}
        return {**persons, "keypoints": keypoints}


def keypoint_errors(
    ground_truth: str | os.PathLike[str] | dict[str, Any] | GroundTruth,
    results: Entries,
    sigmas: Sequence[float] | None = None,
    protocol: str | None = None,
) -> KeypointErrors:
    """Return the `KeypointErrors` of COCO-format results.

    Args:
        ground_truth, sigmas, protocol: as `source`, `sigmas` and `protocol` of `load_ground_truth`.
        results: list of COCO-format results with `keypoints`.

    Raises:
        UserError: for results that do not fit the annotations.
    """
    truth = load_ground_truth(ground_truth, sigmas=sigmas, protocol=protocol)
    images = list(match_poses(truth, results))
    best_oks = [oks for image in images for oks in image.best_oks]
    pairs = [pair for image in images for pair in image.pairs]
    persons, poses = [person for person, *_ in pairs], [pose for _, pose, _ in pairs]
    num_keypoints = truth.skeleton.num_keypoints
    given, found = (values_of(entries, "keypoints", num_keypoints, 3) for entries in (persons, poses))
    scale = 2 * values_of(persons, "area", 1) * (2 * np.array(truth.skeleton.sigmas)) ** 2 + np.spacing(1)
    mirror = np.array(truth.skeleton.flip_indices)
    labeled = given[..., 2] > 0
    # (persons found, K), as all that follows
    squares, squares_to_mirror = (((found - places)[..., :2] ** 2).sum(axis=2) for places in (given, given[:, mirror]))
    similarity = np.exp(-squares / scale)
    at_mirror = labeled[:, mirror] & (np.exp(-squares_to_mirror / scale) >= 0.5)

    def mean(values: np.ndarray) -> np.ndarray:
        """(K,) over the labeled keypoints; NaN without one."""
        return np.ma.array(values, mask=~labeled).mean(axis=0).filled(np.nan)

    is_near = similarity >= 0.5
    kinds = (similarity >= 0.85, is_near & (similarity < 0.85), ~is_near & at_mirror, ~is_near & ~at_mirror)
    columns = zip(np.sqrt(squares).T, labeled.T, strict=True)
    return KeypointErrors(
        names=tuple(truth.skeleton.keypoint_names),
        num_persons=len(best_oks),
        num_found=len(pairs),
        mean_oks=float(np.mean(best_oks)) if best_oks else float("nan"),
        num_labeled=labeled.sum(axis=0),
        similarity=mean(similarity),
        precision=np.mean([mean(similarity >= threshold) for threshold in np.linspace(0.5, 0.95, 10)], axis=0),
        median_error=np.array([np.median(column[mask]) if mask.any() else np.nan for column, mask in columns]),
        kinds=np.stack([mean(kind) for kind in kinds], axis=1),
    )


def _percent(share: float) -> float | None:
    return None if np.isnan(share) else round(100 * float(share), 2)
