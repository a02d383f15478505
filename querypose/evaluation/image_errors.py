"""Errors of single images, so that the worst ones can be looked at."""

from dataclasses import dataclass

from querypose.evaluation.ground_truth import Entries, GroundTruth
from querypose.evaluation.matching import match_poses


@dataclass(frozen=True)
class ImageError:
    """Result of matching an image's poses to its persons, see `ImageMatching`.

    Attributes:
        image_id: of the annotation file.
        persons: persons to find.
        found: how many of them have a pose.
        false_positives: poses that match no person.
        oks: sum of the OKS of those found.
    """

    image_id: int | str
    persons: int
    found: int
    false_positives: int
    oks: float

    @property
    def error(self) -> float:
        """1 - mean OKS, where missed persons and false positives count as 0; 0 if there are neither persons nor
        poses.
        """
        number = self.persons + self.false_positives
        return 1 - self.oks / number if number else 0.0

    @property
    def mean_oks(self) -> float | None:
        """Of those found; None if there are none."""
        return self.oks / self.found if self.found else None


def image_errors(ground_truth: GroundTruth, results: Entries) -> list[ImageError]:
    """Return an `ImageError` for each image, in the order of the file; arguments as of `match_poses`."""
    return [
        ImageError(
            image.image_id,
            len(image.best_oks),
            len(image.pairs),
            image.false_positives,
            sum(oks for *_, oks in image.pairs),
        )
        for image in match_poses(ground_truth, results)
    ]
