"""Which pose is which person, as AP matches them, and the errors of single images and of single keypoints."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from querypose.evaluation.coco_results import check_results, run_coco_eval
from querypose.evaluation.ground_truth import Entries, GroundTruth, Source, load_ground_truth

KINDS = ("good", "jitter", "inversion", "miss")
"""What a keypoint of a found person can be (Ruggero Ronchi and Perona, 2017): similarity 0.85 and more; 0.5 to 0.85;
less, but at least 0.5 to the place of its mirror image in the same person; none of these."""


@dataclass(frozen=True)
class ImageMatching:
    """The poses of an image matched to its persons, as AP does.

    A pose, best score first, is matched to the person with which it has the highest OKS, at least 0.5, each once; of an
    image the 20 best poses count. Crowds and persons without labels are ignored, with the poses that match them.

    best_oks: of each person to find the highest OKS with any pose. pairs: (person, pose, OKS) of each person found.
    false_positives: number of poses that match no person.
    """

    image_id: int | str
    best_oks: list[float]
    pairs: list[tuple[dict[str, Any], dict[str, Any], float]]
    false_positives: int

    @property
    def persons(self) -> int:
        return len(self.best_oks)

    @property
    def found(self) -> int:
        return len(self.pairs)

    @property
    def error(self) -> float:
        """1 - mean OKS, where missed persons and false positives count as 0; 0 with neither persons nor poses."""
        number = self.persons + self.false_positives
        return 1 - sum(oks for *_, oks in self.pairs) / number if number else 0.0

    @property
    def mean_oks(self) -> float | None:
        """Of the persons found; None if there are none."""
        return sum(oks for *_, oks in self.pairs) / self.found if self.found else None


def match_poses(ground_truth: GroundTruth, results: Entries) -> Iterator[ImageMatching]:
    """Yield an `ImageMatching` for each image, in the order of the file; results count whatever their score."""
    poses = check_results(results, ground_truth, ("keypoints",))
    evaluation = run_coco_eval(ground_truth, poses, "keypoints", "pycocotools")
    persons: dict[int | str, Entries] = {image["id"]: [] for image in ground_truth.content["images"]}
    for person in ground_truth.content["annotations"]:
        persons[person["image_id"]].append(person)
    numbers = ground_truth.image_numbers
    # by size class, of which the first is all, then by image; None for one with neither persons nor poses
    matchings = dict(zip(evaluation.params.imgIds, evaluation.evalImgs, strict=False))
    for image_id, here in persons.items():
        # (poses, persons), poses as in the matching and persons as in the file
        similarity = np.array(evaluation.ious[numbers[image_id], 1], dtype=float).reshape(-1, max(1, len(here)))
        counted = [i for i, person in enumerate(here) if not person["iscrowd"] and person["num_keypoints"]]
        best = similarity.max(axis=0, initial=0)[counted].tolist()
        index = {person["id"]: i for i, person in enumerate(here)}
        pairs, false_positives = [], 0
        if (matching := matchings[numbers[image_id]]) is not None:
            # at the first threshold, 0.5; pycocotools numbers the poses from 1
            found = zip(matching["dtIds"], matching["dtMatches"][0], matching["dtIgnore"][0], strict=True)
            for row, (pose, person_id, is_ignored) in enumerate(found):
                if person_id and not is_ignored:
                    i = index[int(person_id)]
                    # with what else the results hold, such as sigmas
                    pairs.append((here[i], {**results[pose - 1], **poses[pose - 1]}, float(similarity[row, i])))
                false_positives += not (person_id or is_ignored)
        yield ImageMatching(image_id, best, pairs, false_positives)


def values_of(entries: Entries, name: str, *shape: int) -> np.ndarray:
    """Return a value of each of n COCO-format entries as an array (n, *shape)."""
    return np.array([entry[name] for entry in entries], dtype=float).reshape(-1, *shape)


@dataclass(frozen=True)
class KeypointErrors:
    """Errors by keypoint, over the labeled keypoints of the persons that were found; NaN for a keypoint without labels.

    The similarity of a single keypoint is its term of OKS, `exp(-d^2 / (2 area (2 sigma)^2))`.

    Attributes:
        mean_oks: mean over all persons of the highest OKS that a pose of their image has with them; NaN without
            persons. Where AP is still near zero it tells models apart.
        similarity: (K,) mean similarity.
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
        keypoints = {
            name: {
                "labelled": int(self.num_labeled[i]),
                "similarity": _percent(self.similarity[i]),
                "AP-like": _percent(self.precision[i]),
                "median_error_pixels": float(self.median_error[i]) if self.num_labeled[i] else None,
                **dict(zip(KINDS, map(_percent, self.kinds[i]), strict=True)),
            }
            for i, name in enumerate(self.names)
        }
        persons = {"persons": self.num_persons, "found": self.num_found, "mean_oks": _percent(self.mean_oks)}
        return {**persons, "keypoints": keypoints}


def keypoint_errors(ground_truth: Source | GroundTruth, results: Entries) -> KeypointErrors:
    """Return the `KeypointErrors` of COCO-format results with `keypoints`; ground_truth: see `load_ground_truth`."""
    truth = load_ground_truth(ground_truth)
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
