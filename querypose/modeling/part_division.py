"""Which keypoints share a part query (Figure 4, Table 2d)."""

from detectron2.utils.registry import Registry

from querypose.errors import UserError
from querypose.modeling.rigid_segments import rigid_segments
from querypose.skeleton import Skeleton

PART_DIVISION_REGISTRY = Registry("PART_DIVISION")
PART_DIVISION_REGISTRY.__doc__ = """
Registry of part divisions, named by `MODEL.QUERYPOSE.PART_DIVISION`.

A registered function takes the `Skeleton` and returns the parts as a list of lists of keypoint names, in the order
of the part queries. Every keypoint stands in exactly one part; `build_part_division` checks it.
"""

_HEAD = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"]


@PART_DIVISION_REGISTRY.register()
def per_keypoint(skeleton: Skeleton) -> list[list[str]]:
    """Figure 4 (a): every keypoint is a part; works for any skeleton."""
    return [[name] for name in skeleton.keypoint_names]


@PART_DIVISION_REGISTRY.register()
def joined_head(skeleton: Skeleton) -> list[list[str]]:
    """Figure 4 (b): the head is one part, every other keypoint another (13 parts of the COCO skeleton)."""
    return [_HEAD] + [[name] for name in skeleton.keypoint_names if name not in _HEAD]


_RIGID = [
    _HEAD,
    ["left_shoulder", "right_shoulder"],
    ["left_elbow", "left_wrist"],
    ["right_elbow", "right_wrist"],
    ["left_hip", "right_hip"],
    ["left_knee", "left_ankle"],
    ["right_knee", "right_ankle"],
]


@PART_DIVISION_REGISTRY.register()
def rigid(skeleton: Skeleton) -> list[list[str]]:
    """Figure 4 (c), the paper's choice: seven parts without a joint inside; of other than COCO's keypoints `limbs`."""
    if set(skeleton.keypoint_names) == {name for part in _RIGID for name in part}:
        return _RIGID
    return limbs(skeleton)


@PART_DIVISION_REGISTRY.register()
def head_and_limbs(skeleton: Skeleton) -> list[list[str]]:
    """Figure 4 (d): head, two arms and two legs (COCO skeleton)."""
    limbs = [
        [f"{side}_{joint}" for joint in joints]
        for joints in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
        for side in ("left", "right")
    ]
    return [_HEAD, *limbs]


@PART_DIVISION_REGISTRY.register()
def limbs(skeleton: Skeleton) -> list[list[str]]:
    """Rigid segments found from any skeleton's limbs (see `rigid_segments`); of COCO's limbs they are Figure 4 (c)."""
    return [[skeleton.keypoint_names[i] for i in part] for part in rigid_segments(skeleton)]


def build_part_division(skeleton: Skeleton, division: str, groups: list[list[str]] = ()) -> list[int]:
    """The index of the part of each keypoint.

    Args:
        skeleton: names and order of the K keypoints.
        division: a name in PART_DIVISION_REGISTRY.
        groups: parts as lists of keypoint names; where there are any, they stand in for `division`.

    Returns:
        K part indices, 0 .. M - 1.

    Raises:
        UserError: a division that is not registered, a name that the skeleton lacks, a keypoint in two parts or in
            none.
    """
    if groups:
        lists = all(isinstance(group, list | tuple) for group in groups)
        if not lists or not all(isinstance(name, str) for group in groups for name in group):
            raise UserError(
                f"MODEL.QUERYPOSE.PART_GROUPS is {groups}; it must be a list of lists of keypoint names, such as "
                "[['head', 'neck'], ['left_hand']]"
            )
        parts, source = [list(group) for group in groups], "MODEL.QUERYPOSE.PART_GROUPS"
    else:
        known = sorted(name for name, _ in PART_DIVISION_REGISTRY)
        if division not in known:
            raise UserError(f"MODEL.QUERYPOSE.PART_DIVISION is '{division}'; valid are {', '.join(known)}")
        parts, source = PART_DIVISION_REGISTRY.get(division)(skeleton), f"the part division '{division}'"

    part_of = {}
    for index, part in enumerate(parts):
        if not part:
            raise UserError(f"{source} has an empty part (number {index + 1}); remove it or name its keypoints")
        for name in part:
            if name not in skeleton.keypoint_names:
                raise UserError(
                    f"{source} names the keypoint '{name}', which this data set's skeleton lacks (it has "
                    f"{', '.join(skeleton.keypoint_names)}); set PART_DIVISION to 'limbs' or 'per_keypoint', or "
                    "PART_GROUPS to your parts"
                )
            if name in part_of:
                raise UserError(
                    f"{source} holds the keypoint '{name}' twice; every keypoint belongs to exactly one part"
                )
            part_of[name] = index
    missing = [name for name in skeleton.keypoint_names if name not in part_of]
    if missing:
        raise UserError(f"{source} leaves out {', '.join(missing)}; every keypoint belongs to exactly one part")
    return [part_of[name] for name in skeleton.keypoint_names]


def describe_parts(skeleton: Skeleton, part_of_keypoint: list[int]) -> str:
    """One line per part with its keypoints, for the log of a run."""
    parts: dict[int, list[str]] = {}
    for name, part in zip(skeleton.keypoint_names, part_of_keypoint, strict=True):
        parts.setdefault(part, []).append(name)
    return "\n".join(f"  part {part + 1}: {', '.join(parts[part])}" for part in sorted(parts))
