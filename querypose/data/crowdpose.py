"""CrowdPose: its skeleton of 14 keypoints, and its splits."""

from querypose.skeleton import Skeleton

_JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
CROWDPOSE_NAMES = (*(f"{side}_{joint}" for joint in _JOINTS for side in ("left", "right")), "head", "neck")
# limbs by name, not those of the official files, which are COCO's and point beyond the 14 keypoints
CROWDPOSE_SKELETON = Skeleton.from_coco_category({"keypoints": CROWDPOSE_NAMES})
CROWDPOSE_SPLITS = ("train", "val", "trainval", "test")
