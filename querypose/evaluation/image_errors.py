"""Errors of single images, so that the worst ones can be looked at."""

from dataclasses import dataclass
from typing import Any

from querypose.evaluation.coco_backends import run_pycocotools
from querypose.evaluation.coco_results import check_results
from querypose.evaluation.ground_truth import Entries, GroundTruth


@dataclass(frozen=True)
class ImageError:
    """Result of matching an image's poses to its persons.

    A pose, best score first, is matched to the person with which it has the highest OKS, at least 0.5, each once, as
    AP does; of an image the 20 best poses count. Persons that AP ignores (crowds, those without labels) are ignored
    here, with the poses that match them.

    Attributes:
        image_id: of the annotation file.
        persons: persons to find.
        found: how many of them have a pose.
        surplus: false positives, poses that match no person.
        oks: sum of the OKS of those found.
    """

    image_id: int | str
    persons: int
    found: int
    surplus: int
    oks: float

    @property
    def error(self) -> float:
        """1 - mean OKS, where missed persons and false positives count as 0; 0 if there are neither persons nor
        poses.
        """
        number = self.persons + self.surplus
        return 1 - self.oks / number if number else 0.0

    @property
    def mean_oks(self) -> float | None:
        """Of those found; None if there are none."""
        return self.oks / self.found if self.found else None


def image_errors(ground_truth: GroundTruth, results: Entries) -> list[ImageError]:
    """Return an `ImageError` for each image, in the order of the file.

    Args:
        ground_truth: `GroundTruth`.
        results: list of COCO-format results with `keypoints`; all count, whatever their score.

    Raises:
        UserError: for results that do not fit the annotations.
    """
    poses = check_results(results, ground_truth, ("keypoints",))
    poses = [{key: value for key, value in pose.items() if key != "bbox"} for pose in poses]
    evaluation = run_pycocotools(ground_truth, poses, "keypoints")
    persons: dict[int | str, list[int]] = {}
    for number, person in enumerate(ground_truth.content["annotations"], start=1):
        persons.setdefault(person["image_id"], []).append(number)
    # by size class, of which the first is all, then by image; None for one with neither persons nor poses
    matchings = dict(zip(evaluation.params.imgIds, evaluation.evalImgs, strict=False))
    errors = []
    for number, image in enumerate(ground_truth.content["images"], start=1):
        # (poses, persons), poses as in the matching and persons as in the file
        similarity = evaluation.ious[number, 1]
        errors.append(_image_error(image["id"], matchings[number], similarity, persons.get(image["id"], [])))
    return errors


def _image_error(image_id: int | str, matching: Any, similarity: Any, persons: list[int]) -> ImageError:
    """The `ImageError` of pycocotools' matching of an image, with the numbers of its persons in the order of OKS."""
    if matching is None:
        return ImageError(image_id, 0, 0, 0, 0.0)
    found, surplus, oks = 0, 0, 0.0
    # at the first threshold, 0.5
    for pose, (person, is_ignored) in enumerate(zip(matching["dtMatches"][0], matching["dtIgnore"][0], strict=True)):
        if is_ignored:
            continue
        if person == 0:
            surplus += 1
        else:
            found += 1
            oks += float(similarity[pose][persons.index(person)])
    return ImageError(image_id, int(sum(1 - matching["gtIgnore"])), found, surplus, oks)
