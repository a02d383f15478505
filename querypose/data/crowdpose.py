"""CrowdPose: its skeleton of 14 keypoints, and its splits as data sets."""

from pathlib import Path

from querypose.data.coco_keypoints import register_coco_keypoints
from querypose.skeleton import Skeleton, flip_pairs_by_name, known_sigmas, limbs_by_name

CROWDPOSE_NAMES = (
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
)  # fmt: skip

CROWDPOSE_SKELETON = Skeleton(
    CROWDPOSE_NAMES,
    flip_pairs_by_name(CROWDPOSE_NAMES),
    # not those of the official files, which are COCO's and point beyond the 14 keypoints
    limbs_by_name(CROWDPOSE_NAMES),
    known_sigmas(CROWDPOSE_NAMES),
)

CROWDPOSE_SPLITS = ("train", "val", "trainval", "test")


def register_crowdpose(root: Path) -> None:
    """Register `crowdpose_train`, `_val`, `_trainval` and `_test` as tools/prepare_crowdpose.py writes them.

    Args:
        root: folder of the data sets, with `crowdpose/annotations` and `crowdpose/images` in it.
    """
    for split in CROWDPOSE_SPLITS:
        name = f"crowdpose_{split}"
        folder = root / "crowdpose"
        json_file = folder / "annotations" / f"{name}.json"
        register_coco_keypoints(
            name,
            json_file,
            folder / "images",
            CROWDPOSE_SKELETON,
            evaluator_type="crowdpose",
            made_by="tools/prepare_crowdpose.py makes it from the official files",
        )
