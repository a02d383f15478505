"""Which keypoints share a part query (Figure 4, Table 2d)."""

from collections.abc import Sequence

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
    limbs = (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
    return [_HEAD, *([f"{side}_{joint}" for joint in limb] for limb in limbs for side in ("left", "right"))]


@PART_DIVISION_REGISTRY.register()
def limbs(skeleton: Skeleton) -> list[list[str]]:
    """Rigid segments found from any skeleton's limbs (see `rigid_segments`); of COCO's limbs they are Figure 4 (c)."""
    return [[skeleton.keypoint_names[i] for i in part] for part in rigid_segments(skeleton)]


def build_part_division(
    skeleton: Skeleton, division: str | None = None, groups: Sequence[Sequence[str]] = ()
) -> list[int]:
    """The index of the part of each keypoint.

    Args:
        skeleton: names and order of the K keypoints.
        division: a name in PART_DIVISION_REGISTRY; None: `groups`, or "rigid" if there are none.
        groups: parts as lists of keypoint names.

    Returns:
        K part indices, 0 .. M - 1.

    Raises:
        UserError: a division that is not registered or makes other parts than `groups`, a name that the skeleton
            lacks, a keypoint in two parts or in none.
    """
    if not groups:
        division = division or "rigid"
        known = sorted(name for name, _ in PART_DIVISION_REGISTRY)
        if division not in known:
            raise UserError(f"MODEL.QUERYPOSE.PART_DIVISION is '{division}'; valid are {', '.join(known)}")
        parts = PART_DIVISION_REGISTRY.get(division)(skeleton)
        return _part_indices(skeleton, parts, f"the part division '{division}'")
    if not all(isinstance(group, list | tuple) and all(isinstance(name, str) for name in group) for group in groups):
        raise UserError(
            f"MODEL.QUERYPOSE.PART_GROUPS is {groups}; it must be a list of lists of keypoint names, such as "
            "[['head', 'neck'], ['left_hand']]"
        )
    indices = _part_indices(skeleton, groups, "MODEL.QUERYPOSE.PART_GROUPS")
    if division is not None and indices != build_part_division(skeleton, division):
        raise UserError(
            f"MODEL.QUERYPOSE.PART_GROUPS holds other parts than PART_DIVISION '{division}' makes; set PART_GROUPS to "
            "[] to use the division, or PART_DIVISION to None to use the groups"
        )
    return indices


def part_groups(skeleton: Skeleton, part_of_keypoint: Sequence[int]) -> list[list[str]]:
    """The names of each part's keypoints: the inverse of `build_part_division`."""
    parts: list[list[str]] = [[] for _ in range(max(part_of_keypoint) + 1)]
    for name, part in zip(skeleton.keypoint_names, part_of_keypoint, strict=True):
        parts[part].append(name)
    return parts


def _part_indices(skeleton: Skeleton, parts: Sequence[Sequence[str]], source: str) -> list[int]:
    names = [name for part in parts for name in part]
    unknown = [name for name in names if name not in skeleton.keypoint_names]
    repeated = [name for name in names if names.count(name) > 1]
    missing = [name for name in skeleton.keypoint_names if name not in names]
    if unknown:
        raise UserError(
            f"{source} names the keypoint '{unknown[0]}', which this data set's skeleton lacks (it has "
            f"{', '.join(skeleton.keypoint_names)}); set PART_DIVISION to 'limbs' or 'per_keypoint', or PART_GROUPS to "
            "your parts"
        )
    if repeated or missing or not all(parts):
        fault = f"holds the keypoint '{repeated[0]}' twice" if repeated else f"leaves out {', '.join(missing)}"
        fault = fault if repeated or missing else "has an empty part"
        raise UserError(f"{source} {fault}; every keypoint belongs to exactly one part")
    part_of = {name: index for index, part in enumerate(parts) for name in part}
    return [part_of[name] for name in skeleton.keypoint_names]
