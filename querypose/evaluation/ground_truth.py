"""The annotations that results are evaluated against, and by which protocol's rules."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import MetadataCatalog

from querypose.data.annotations import AREA_PER_BOX_AREA, normalize, read_annotations
from querypose.data.coco_keypoints import annotation_file, resolve_dataset
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
        category_id: int | str = self.content["categories"][0]["id"]
        return category_id

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

        category = {"id": 1, "name": "person", "keypoints": list(self.skeleton.keypoint_names)}
        content = {
            "images": [{**image, "id": numbers[image["id"]]} for image in self.content["images"]],
            "categories": [category],
            "annotations": [copied(person) for person in self.content["annotations"]],
        }
        return content, [copied(result) for result in results]


def load_ground_truth(
    source: str | os.PathLike[str] | dict[str, Any],
    *,
    skeleton: Skeleton | None = None,
    sigmas: Sequence[float] | None = None,
    protocol: str | None = None,
) -> GroundTruth:
    """Read the annotations to evaluate against, normalized as for training (`querypose.data.annotations`).

    By CrowdPose's protocol every area is 0.53 times that of the box, and `num_keypoints` leaves out head and neck.

    Args:
        source: an annotation file, or its content (a dict, which is not changed).
        skeleton: `Skeleton` of the keypoints; default the file's.
        sigmas: K OKS sigmas; default those of the skeleton.
        protocol: one of `PROTOCOLS`; default "crowdpose" for a file whose images all have a `crowdIndex`.

    Raises:
        UserError: for a file that cannot be used, or that lacks what the protocol needs.
    """
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
    elif sigmas is not None and len(sigmas):
        skeleton = skeleton.with_sigmas(sigmas)
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


def ground_truth_of(dataset: str) -> tuple[GroundTruth, str]:
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
