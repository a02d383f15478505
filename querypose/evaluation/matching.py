"""Which pose is which person, as AP matches them, and the errors of single images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from querypose.evaluation.coco_backends import run_coco_eval
from querypose.evaluation.coco_results import check_results
from querypose.evaluation.ground_truth import Entries, GroundTruth


@dataclass(frozen=True)
class ImageMatching:
    """The poses of an image matched to its persons.

    A pose, best score first, is matched to the person with which it has the highest OKS, at least 0.5, each once, as
    AP does; of an image the 20 best poses count. Persons that AP ignores (crowds, those without labels) are ignored
    here, with the poses that match them.

    Attributes:
        image_id: of the annotation file.
        best_oks: of each person the highest OKS with any pose of the image.
        pairs: (person, pose, OKS) of each person found.
        false_positives: number of poses that match no person.
    """

    image_id: int | str
    best_oks: list[float]
    pairs: list[tuple[dict[str, Any], dict[str, Any], float]]
    false_positives: int

    @property
    def persons(self) -> int:
        """Number of persons to find."""
        return len(self.best_oks)

    @property
    def found(self) -> int:
        """Number of persons with a pose."""
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
    """Yield an `ImageMatching` for each image, in the order of the file; results count whatever their score.

    Raises `UserError` for results that do not fit the annotations.
    """
    poses = check_results(results, ground_truth, ("keypoints",))
    evaluation = run_coco_eval(ground_truth, poses, "keypoints", "pycocotools")
    persons: dict[int | str, Entries] = {image["id"]: [] for image in ground_truth.content["images"]}
    index_in_image: dict[int, int] = {}  # by the person's id
    for person in ground_truth.content["annotations"]:
        index_in_image[person["id"]] = len(persons[person["image_id"]])
        persons[person["image_id"]].append(person)
    numbers = ground_truth.image_numbers
    # by size class, of which the first is all, then by image; None for one with neither persons nor poses
    matchings = dict(zip(evaluation.params.imgIds, evaluation.evalImgs, strict=False))
    for image_id, here in persons.items():
        # (poses, persons), poses as in the matching and persons as in the file
        similarity = np.array(evaluation.ious[numbers[image_id], 1], dtype=float).reshape(-1, max(1, len(here)))
        counted = [i for i, person in enumerate(here) if not person["iscrowd"] and person["num_keypoints"]]
        best = similarity.max(axis=0, initial=0)[counted].tolist() if counted else []
        pairs, false_positives = [], 0
        matching = matchings[numbers[image_id]]
        if matching is not None:
            # at the first threshold, 0.5; pycocotools numbers the poses from 1
            found = zip(matching["dtIds"], matching["dtMatches"][0], matching["dtIgnore"][0], strict=True)
            for row, (pose, person_id, is_ignored) in enumerate(found):
                if person_id and not is_ignored:
                    i = index_in_image[int(person_id)]
                    # with what else the results hold, such as sigmas
                    pairs.append((here[i], {**results[pose - 1], **poses[pose - 1]}, float(similarity[row, i])))
                false_positives += not (person_id or is_ignored)
        yield ImageMatching(image_id, best, pairs, false_positives)


def values_of(entries: Entries, name: str, *shape: int) -> np.ndarray:
    """Return a value of each of n COCO-format entries as an array (n, *shape)."""
    return np.array([entry[name] for entry in entries], dtype=float).reshape(-1, *shape)
