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

Entries = list[dict[str, Any]]
Source = str | os.PathLike[str] | dict[str, Any]
"""A registered data set, an annotation file, or its content."""


@dataclass(frozen=True)
class GroundTruth:
    """content: `images`, `categories` (that of the persons) and `annotations` as of `KeypointAnnotations`. skeleton:
    with the OKS sigmas to use. protocol: one of `PROTOCOLS`.
    """

    content: dict[str, Entries]
    skeleton: Skeleton
    protocol: str

    @property
    def category_id(self) -> int | str:
        return self.content["categories"][0]["id"]

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
        annotations, results = (
            [{**entry, "image_id": numbers[entry["image_id"]], "category_id": 1} for entry in entries]
            for entries in (self.content["annotations"], results)
        )
        images = [{**image, "id": numbers[image["id"]]} for image in self.content["images"]]
        categories = [{"id": 1, "name": "person", "keypoints": list(self.skeleton.keypoint_names)}]
        return {"images": images, "categories": categories, "annotations": annotations}, results


def load_ground_truth(
    source: Source | GroundTruth, sigmas: Sequence[float] | None = None, protocol: str | None = None
) -> GroundTruth:
    """Read the annotations to evaluate against, normalized as for training (`querypose.data.annotations`).

    sigmas: K OKS sigmas; default the data set's. protocol: one of `PROTOCOLS`; default "crowdpose" for a data set with
    that `evaluator_type`, and for a file whose images all have a `crowdIndex`. By it every area is 0.53 times that of
    the box, and `num_keypoints` leaves out head and neck. A `GroundTruth` is returned as it is.
    """
    if isinstance(source, GroundTruth):
        return source
    if isinstance(source, dict):
        annotations = normalize({"images": [], "categories": [], "annotations": [], **source}, "the given annotations")
    else:
        annotations = read_annotations(annotation_file(os.fspath(source)))
    annotations.log()
    if not isinstance(source, dict) and source in DatasetCatalog.list():
        metadata = MetadataCatalog.get(source)
        skeleton = Skeleton.from_metadata(metadata, sigmas)
        protocol = protocol or ("crowdpose" if metadata.get("evaluator_type") == "crowdpose" else None)
    elif annotations.category is None:
        raise UserError(f"{annotations.path} has no category with keypoints; evaluate against a keypoint file")
    else:
        skeleton = Skeleton.from_coco_category(annotations.category, sigmas)

    without_index = [image for image in annotations.images if not isinstance(image.get("crowdIndex"), int | float)]
    if protocol is None:
        protocol = "crowdpose" if annotations.images and not without_index else "coco"
    if protocol not in PROTOCOLS:
        raise UserError(f"the evaluation protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}")
    if protocol == "crowdpose":
        if without_index:
            found = f"{len(without_index)} images of {annotations.path} have no `crowdIndex`"
            raise UserError(f"{found}: use CrowdPose's official file, or COCO's rules (--protocol coco)")
        for person in annotations.persons:
            width, height = person["bbox"][2:]
            # the order of the factors is that of the official tool, for the same last bit
            person["area"] = height * width * AREA_PER_BOX_AREA
            flags = zip(skeleton.keypoint_names, person["keypoints"][2::3], strict=False)
            person["num_keypoints"] = sum(v > 0 for name, v in flags if name not in ("head", "neck"))
    category = annotations.category or {"id": annotations.category_id, "name": "person"}
    content = {"images": annotations.images, "categories": [category], "annotations": annotations.persons}
    return GroundTruth(content, skeleton, protocol)
