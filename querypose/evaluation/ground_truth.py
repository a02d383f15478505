"""The annotations that results are evaluated against, and by which protocol's rules."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from querypose.data.annotations import AREA_PER_BOX_AREA, normalize, read_annotations
from querypose.data.coco_keypoints import annotation_file
from querypose.errors import UserError
from querypose.skeleton import Skeleton

PROTOCOLS = ("coco", "crowdpose")

# CrowdPose counts its first twelve joints: persons of whom only head and neck are labeled are ignored.
_NOT_COUNTED_BY_CROWDPOSE = ("head", "neck")

Entries = list[dict[str, Any]]


@dataclass(frozen=True)
class GroundTruth:
    """The persons of a COCO-format file with all that the evaluation needs.

    Attributes:
        content: dict of `images`, `categories` (the one of the persons) and `annotations` (the persons', each with
            `area`, `iscrowd`, `keypoints` and `num_keypoints`), as of `KeypointAnnotations`. Ids are those of the file.
        skeleton: `Skeleton` of the keypoints, with the OKS sigmas to use.
        protocol: one of `PROTOCOLS`.
    """

    content: dict[str, Entries]
    skeleton: Skeleton
    protocol: str

    @property
    def category_id(self) -> int | str:
        """Id of the persons' category."""
        return self.content["categories"][0]["id"]

    def require_persons(self) -> GroundTruth:
        """Return self; raise a `UserError` if there is no person to find."""
        if not self.content["annotations"]:
            raise UserError(
                "the data set has no annotations of persons, so no AP can be computed; give one that has, or submit "
                "the results to the test set's server"
            )
        return self

    @property
    def image_numbers(self) -> dict[int | str, int]:
        """By image id the image's number in `numbered`, from 1 in the order of the ids, text after numbers.

        It is the scorers' order, in which detections of equal score count, and not that of the file.
        """
        ids = (image["id"] for image in self.content["images"])
        ordered = sorted(ids, key=lambda given: (isinstance(given, str), given))
        return {given: number for number, given in enumerate(ordered, start=1)}

    def numbered(self, results: Entries) -> tuple[dict[str, Entries], Entries]:
        """Return `content` and results as copies with images numbered 1, 2, .. (as persons are) and the category 1.

        The scorers differ in which ids they take: an id of 0 counts as no match, text and more than 64 bits fail.
        """
        numbers = self.image_numbers

        def copied(entry: dict[str, Any]) -> dict[str, Any]:
            return {**entry, "image_id": numbers[entry["image_id"]], "category_id": 1}

        content = {
            "images": [{**image, "id": numbers[image["id"]]} for image in self.content["images"]],
            "categories": [{"id": 1, "name": "person", "keypoints": list(self.skeleton.keypoint_names)}],
            "annotations": list(map(copied, self.content["annotations"])),
        }
        return content, list(map(copied, results))


def load_ground_truth(
    source: str | os.PathLike[str] | dict[str, Any] | GroundTruth,
    *,
    skeleton: Skeleton | None = None,
    sigmas: Sequence[float] | None = None,
    protocol: str | None = None,
) -> GroundTruth:
    """Read the annotations to evaluate against, normalized as for training (`querypose.data.annotations`).

    By CrowdPose's protocol every area is 0.53 times that of the box, and `num_keypoints` leaves out head and neck.

    Args:
        source: an annotation file, or its content (a dict, which is not changed); a `GroundTruth` is returned as it is.
        skeleton: `Skeleton` of the keypoints; default the file's, with `sigmas` if given.
        protocol: one of `PROTOCOLS`; default "crowdpose" for a file whose images all have a `crowdIndex`.

    Raises:
        UserError: for a file that cannot be used, or that lacks what the protocol needs.
    """
    if isinstance(source, GroundTruth):
        return source
    if isinstance(source, dict):
        complete = {"images": [], "categories": [], "annotations": [], **source}
        annotations = normalize(complete, "the given annotations")
    else:
        annotations = read_annotations(source)
    annotations.require_persons()
    if skeleton is None:
        if annotations.category is None:
            raise UserError(f"{annotations.path} has no category with keypoints; evaluate against a keypoint file")
        skeleton = Skeleton.from_coco_category(annotations.category, sigmas)
    protocol = _check_protocol(annotations.images, protocol, annotations.path)
    if protocol == "crowdpose":
        for person in annotations.persons:
            width, height = person["bbox"][2:]
            # the order of the factors is that of the official tool, for the same last bit
            person["area"] = height * width * AREA_PER_BOX_AREA
            flags = zip(skeleton.keypoint_names, person["keypoints"][2::3], strict=False)
            person["num_keypoints"] = sum(v > 0 for name, v in flags if name not in _NOT_COUNTED_BY_CROWDPOSE)
    content = {
        "images": annotations.images,
        "categories": [annotations.category or {"id": annotations.category_id, "name": "person"}],
        "annotations": annotations.persons,
    }
    return GroundTruth(content, skeleton, protocol)


def ground_truth_of(dataset: str, *, sigmas: Sequence[float] | None = None, protocol: str | None = None) -> GroundTruth:
    """Return the `GroundTruth` of a registered data set, by its metadata, or of FILE.json, as of `load_ground_truth`.

    The `evaluator_type` "crowdpose" of a registered one requests that protocol.
    """
    path = annotation_file(dataset)
    if dataset not in DatasetCatalog.list():
        return load_ground_truth(path, sigmas=sigmas, protocol=protocol)
    metadata = MetadataCatalog.get(dataset)
    if metadata.get("evaluator_type") == "crowdpose":
        protocol = protocol or "crowdpose"
    return load_ground_truth(path, skeleton=Skeleton.from_metadata(metadata, sigmas=sigmas), protocol=protocol)


def _check_protocol(images: Entries, protocol: str | None, path: str) -> str:
    without_index = [image for image in images if not isinstance(image.get("crowdIndex"), int | float)]
    if protocol is None:
        return "crowdpose" if images and not without_index else "coco"
    if protocol not in PROTOCOLS:
        raise UserError(f"the evaluation protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}")
    if protocol == "crowdpose" and without_index:
        raise UserError(
            f"{len(without_index)} images of {path} have no `crowdIndex`, by which CrowdPose sorts images into easy, "
            "medium and hard: use the official file, or evaluate by COCO's rules (--protocol coco)"
        )
    return protocol
