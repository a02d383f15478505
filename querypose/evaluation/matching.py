"""Which pose is which person, as AP matches them, and the errors of single images and of single keypoints."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from querypose.evaluation.coco_results import check_results, run_coco_eval
from querypose.evaluation.ground_truth import Entries, GroundTruth, Source, load_ground_truth


@dataclass(frozen=True)
class ImageMatching:
    """The poses of an image matched to its persons, as AP does at an OKS of 0.5: its 20 best, best score first.

    Crowds and persons without labels are ignored, with the poses that match them.

    best_oks: of each person to find the highest OKS with any pose. pairs: (person, pose, OKS) of each person found.
    false_positives: number of poses that match no person.
    """

    image_id: int | str
    best_oks: list[float]
    pairs: list[tuple[dict[str, Any], dict[str, Any], float]]
    false_positives: int

    @property
    def error(self) -> float:
        """1 - mean OKS, where missed persons and false positives count as 0; 0 with neither persons nor poses."""
        number = len(self.best_oks) + self.false_positives
        return 1 - sum(oks for *_, oks in self.pairs) / number if number else 0.0


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


def keypoint_errors(ground_truth: Source | GroundTruth, results: Entries) -> dict[str, Any]:
    """Return the errors of COCO-format results with `keypoints`, for JSON: shares in percent, None of nothing.

    "persons" and "found" are numbers. "mean_oks" is the mean over all persons of the highest OKS that a pose of their
    image has with them; where AP is still near zero it tells models apart. "keypoints" holds by name, over the labeled
    ones of the persons found: their number, "labelled"; "similarity", the mean of the single keypoint's term of OKS,
    exp(-d^2 / (2 area (2 sigma)^2)); "AP-like", the share with at least a similarity, mean over 0.50, 0.55, .. 0.95;
    "median_error_pixels"; and the shares of kinds (Ruggero Ronchi and Perona, 2017): "good", a similarity of 0.85 and
    more; "jitter", 0.5 to 0.85; "inversion", less, but at least 0.5 to the place of its mirror image in the same
    person; "miss", none of these.
    """
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
    keypoints = {}
    for i, name in enumerate(truth.skeleton.keypoint_names):
        rows = labeled[:, i]
        similar, inverted = similarity[rows, i], at_mirror[rows, i]
        keypoints[name] = {
            "labelled": int(rows.sum()),
            "similarity": _percent(similar),
            "AP-like": _percent(similar[:, None] >= np.linspace(0.5, 0.95, 10)),
            "median_error_pixels": float(np.median(np.sqrt(squares[rows, i]))) if rows.any() else None,
            "good": _percent(similar >= 0.85),
            "jitter": _percent((similar >= 0.5) & (similar < 0.85)),
            "inversion": _percent((similar < 0.5) & inverted),
            "miss": _percent((similar < 0.5) & ~inverted),
        }
    counts = {"persons": len(best_oks), "found": len(pairs)}
    return {**counts, "mean_oks": _percent(np.array(best_oks)), "keypoints": keypoints}


def _percent(shares: np.ndarray) -> float | None:
    return round(100 * float(shares.mean()), 2) if shares.size else None
