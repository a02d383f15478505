"""The annotations that results are evaluated against, and by which protocol's rules."""

from dataclasses import dataclass

from querypose.data.coco_format import first_problem, keypoint_category, load_coco_format
from querypose.errors import UserError
from querypose.skeleton import Skeleton

PROTOCOLS = ("coco", "crowdpose")

# Person area over box area, where a file gives no area, and always in CrowdPose.
AREA_PER_BOX_AREA = 0.53

# CrowdPose counts its first twelve joints: of a person with head and neck alone it asks nothing.
_NOT_COUNTED_BY_CROWDPOSE = ("head", "neck")


@dataclass(frozen=True)
class GroundTruth:
    """The persons of a COCO-format file with all that the evaluation looks at.

    Attributes:
        content: dict of `images`, `categories` (the one of the persons) and `annotations` (the persons', each with
            `area`, `iscrowd`, `keypoints` and `num_keypoints`).
        skeleton: `Skeleton` of the keypoints, with the OKS sigmas to use.
        protocol: one of `PROTOCOLS`.
    """

    content: dict
    skeleton: Skeleton
    protocol: str

    @property
    def category_id(self):
        """Id of the persons' category."""
        return self.content["categories"][0]["id"]

    def copy_entries(self):
        """Return `content` with entries of its own: the evaluation tools add keys to what they are given."""
        return {key: [dict(entry) for entry in entries] for key, entries in self.content.items()}


def load_ground_truth(source, *, skeleton=None, sigmas=None, protocol=None):
    """Read the annotations to evaluate against.

    Of the annotations only those of the category with keypoints count. An annotation without `area` gets 0.53 times
    that of its box (in CrowdPose each does), one without `num_keypoints` the number of its labelled keypoints (in
    CrowdPose without head and neck).

    Args:
        source: an annotation file, or its content (a dict, which stays as it is).
        skeleton: `Skeleton` of the keypoints; default the file's.
        sigmas: K OKS sigmas; default those of the skeleton.
        protocol: one of `PROTOCOLS`; default "crowdpose" for a file whose images all have a `crowdIndex`.

    Raises:
        UserError: for a file that cannot be used, or that lacks what the protocol needs.
    """
    if isinstance(source, dict):
        content, path = {"images": [], "categories": [], "annotations": [], **source}, "the given annotations"
    else:
        content, path = load_coco_format(source), str(source)
    category, category_id = keypoint_category(content, path)
    if category is None and skeleton is None:
        without = "" if content["annotations"] else " and no annotations, so no AP can be computed"
        raise UserError(f"{path} has no category with keypoints{without}; evaluate against a keypoint file")
    problem = first_problem(content, category, path)
    if problem:
        raise UserError(problem)
    if skeleton is None:
        skeleton = Skeleton.from_coco_category(category, sigmas)
    elif sigmas is not None and len(sigmas):
        skeleton = skeleton.with_sigmas(sigmas)
    protocol = _check_protocol(content["images"], protocol, path)
    persons = [
        _complete(annotation, skeleton, protocol)
        for annotation in content["annotations"]
        if annotation["category_id"] == category_id
    ]
    content = {
        "images": content["images"],
        "categories": [category or {"id": category_id, "name": "person"}],
        "annotations": persons,
    }
    return GroundTruth(content, skeleton, protocol)


def _check_protocol(images, protocol, path):
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


def _complete(annotation, skeleton, protocol):
    """Return a copy of a person's annotation with everything that COCO's evaluation looks at."""
    keypoints = annotation.get("keypoints") or [0] * (3 * skeleton.num_keypoints)
    width, height = annotation["bbox"][2:]
    # the order of the factors is that of the official tool, for the same last bit
    area = height * width * AREA_PER_BOX_AREA
    not_counted = _NOT_COUNTED_BY_CROWDPOSE if protocol == "crowdpose" else ()
    labelled = zip(skeleton.keypoint_names, keypoints[2::3], strict=True)
    person = {
        "iscrowd": 0,
        "area": area,
        "num_keypoints": sum(v > 0 for name, v in labelled if name not in not_counted),
        **annotation,
        "keypoints": keypoints,
    }
    if protocol == "crowdpose":
        person["area"] = area
    # Polygons are large, and no task needs them.
    person.pop("segmentation", None)
    return person
