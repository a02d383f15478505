"""How well each single image is solved, so that the worst ones can be looked at."""

import json
from dataclasses import dataclass, replace

from detectron2.data import MetadataCatalog

from querypose.data.coco_keypoints import annotation_file, resolve_dataset
from querypose.errors import UserError
from querypose.evaluation.coco_backends import run_pycocotools
from querypose.evaluation.coco_results import check_results
from querypose.evaluation.ground_truth import load_ground_truth
from querypose.skeleton import Skeleton

MIN_OKS = 0.5
"""From here on a pose counts as that of a person."""


@dataclass(frozen=True)
class ImageError:
    """What became of an image's persons.

    A pose, best score first, is matched to the person with which it has the highest OKS, at least 0.5, each once, as
    AP does; of an image the 20 best poses count. Persons that AP ignores (crowds, those without labels) are ignored
    here, with the poses that are theirs.

    Attributes:
        image_id: of the annotation file.
        persons: persons to find.
        found: how many of them have a pose.
        surplus: poses that are nobody's.
        oks: sum of the OKS of those found.
    """

    image_id: int | str
    persons: int
    found: int
    surplus: int
    oks: float

    @property
    def error(self) -> float:
        """1 less the mean OKS, for which a person without a pose and a pose without a person count 0; 0 if there are
        neither.
        """
        number = self.persons + self.surplus
        return 1 - self.oks / number if number else 0.0

    @property
    def mean_oks(self) -> float | None:
        """Of those found; None if there are none."""
        return self.oks / self.found if self.found else None


def read_results(path):
    """Return the content of a JSON file of results.

    Raises:
        UserError: if it cannot be read or is no JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"the results {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"the results {path} are not valid JSON ({error}); write them anew") from error


def ground_truth_of(dataset):
    """Return the `GroundTruth` of a data set and the folder of its images.

    Args:
        dataset: a registered name, FILE.json or FILE.json@IMAGE_FOLDER, as of `resolve_dataset`.

    Raises:
        UserError: for a data set that is unknown, cannot be read, or has no persons.
    """
    metadata = MetadataCatalog.get(resolve_dataset(dataset))
    truth = load_ground_truth(
        annotation_file(dataset),
        skeleton=Skeleton.from_metadata(metadata),
        protocol="crowdpose" if metadata.get("evaluator_type") == "crowdpose" else None,
    )
    if not truth.content["annotations"]:
        raise UserError(f"the data set {dataset!r} has no annotations of persons; name one that has")
    return truth, metadata.image_root


def image_errors(ground_truth, results):
    """Return an `ImageError` for each image, in the order of the file.

    Args:
        ground_truth: `GroundTruth`.
        results: list of COCO-format results with `keypoints`; all count, whatever their score.

    Raises:
        UserError: for results that do not fit the annotations.
    """
    check_results(results, ground_truth, ("keypoints",))
    poses = [{key: result[key] for key in ("image_id", "category_id", "keypoints", "score")} for result in results]
    # numbered anew, because the tool takes a person with id 0 for none
    persons = [{**person, "id": number} for number, person in enumerate(ground_truth.content["annotations"], start=1)]
    truth = replace(ground_truth, content={**ground_truth.content, "annotations": persons})
    evaluation = run_pycocotools(truth, poses, "keypoints")
    here: dict = {}
    for person in persons:
        here.setdefault(person["image_id"], []).append(person["id"])
    # by size class, of which the first is all, then by image; None for one with neither persons nor poses
    matchings = dict(zip(evaluation.params.imgIds, evaluation.evalImgs, strict=False))
    errors = []
    for image in truth.content["images"]:
        # (poses, persons), poses as in the matching and persons as in the file
        similarity = evaluation.ious[image["id"], truth.category_id]
        errors.append(_image_error(image["id"], matchings[image["id"]], similarity, here.get(image["id"])))
    return errors


def _image_error(image_id, matching, similarity, persons):
    """The `ImageError` of pycocotools' matching of an image, with the ids of its persons in the order of their OKS."""
    if matching is None:
        return ImageError(image_id, 0, 0, 0, 0.0)
    found, surplus, oks = 0, 0, 0.0
    # at the first threshold, MIN_OKS
    for pose, (person, is_ignored) in enumerate(zip(matching["dtMatches"][0], matching["dtIgnore"][0], strict=True)):
        if is_ignored:
            continue
        if person == 0:
            surplus += 1
        else:
            found += 1
            oks += float(similarity[pose][persons.index(person)])
    return ImageError(image_id, int(sum(1 - matching["gtIgnore"])), found, surplus, oks)
