"""CrowdPose: its skeleton of 14 keypoints, and its splits."""

from querypose.skeleton import Skeleton

CROWDPOSE_NAMES = (
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
)  # fmt: skip

# limbs by name, not those of the official files, which are COCO's and point beyond the 14 keypoints
CROWDPOSE_SKELETON = Skeleton.from_coco_category({"keypoints": CROWDPOSE_NAMES})

CROWDPOSE_SPLITS = ("train", "val", "trainval", "test")
