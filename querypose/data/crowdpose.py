"""CrowdPose: its skeleton of 14 keypoints, and its splits."""

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
