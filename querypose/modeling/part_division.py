"""Which keypoints share a part query (Figure 4, Table 2d)."""

from collections.abc import Sequence

from detectron2.utils.registry import Registry
from networkx import Graph
from networkx.algorithms.community import k_clique_communities

from querypose.errors import UserError
from querypose.skeleton import Skeleton

PART_DIVISION_REGISTRY = Registry("PART_DIVISION")
PART_DIVISION_REGISTRY.__doc__ = """
Registry of part divisions, named by `MODEL.QUERYPOSE.PART_DIVISION`.

A registered function takes the `Skeleton` and returns the parts as a list of lists of keypoint names, in the order
of the part queries. Every keypoint stands in exactly one part; `build_part_division` checks it.
"""

_HEAD = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"]
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
def per_keypoint(skeleton: Skeleton) -> list[list[str]]:
    """Figure 4 (a): every keypoint is a part; works for any skeleton."""
    return [[name] for name in skeleton.keypoint_names]


@PART_DIVISION_REGISTRY.register()
def joined_head(skeleton: Skeleton) -> list[list[str]]:
    """Figure 4 (b): the head is one part, every other keypoint another (13 parts of the COCO skeleton)."""
    return [_HEAD] + [[name] for name in skeleton.keypoint_names if name not in _HEAD]


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
    """Parts without a joint inside, found from any skeleton's limbs; of COCO's limbs they are Figure 4 (c).

    1. Triangles of limbs do not bend (longer rings do). Those that share a limb are one body.
    2. From the extremities inwards, a keypoint with one limb left makes a part with its neighbor: wrist and elbow. If
       the neighbor belongs to a body, the keypoint joins it: ear and head. If a neighbor has several such keypoints,
       none that mirror each other can be preferred, and of the others the last in order is taken.
    3. Where no extremity is left, limbs that join mirror images are parts (the shoulders, the hips), and where there
       is none of these either, the first limb in order.
    """
    graph, mirror = Graph(list(skeleton.limbs)), skeleton.flip_indices
    graph.add_nodes_from(range(skeleton.num_keypoints))
    parts: list[set[int]] = []
    for body in sorted(map(sorted, k_clique_communities(graph, 3))):
        # bodies that touch in one keypoint can turn about it: that keypoint stays with the first
        parts.append(set(body).difference(*parts))
    parts = [body for body in parts if body]
    body_of = {i: body for body in parts for i in body}
    while left := sorted(set(graph) - set(body_of)):
        joining = [i for i in left if graph[i] and body_of.keys() >= set(graph[i])]
        for i in joining:
            body_of[min(graph[i])].add(i)
        found = {frozenset([i]) for i in left if not graph[i]}
        for neighbor in left:
            ends = [i for i in left if list(graph[i]) == [neighbor]]
            chosen = [i for i in ends if mirror[i] == i or mirror[i] not in ends][-1:]
            found |= {frozenset({i, neighbor} if i in chosen else {i}) for i in ends}
        if not joining and not found:
            found = {frozenset({i, mirror[i]}) for i in left if mirror[i] in left and mirror[i] in graph[i]}
            found = found or {frozenset({left[0], min(set(graph[left[0]]).intersection(left))})}
        parts += map(set, found)
        graph.remove_nodes_from(set(joining).union(*found))
    return [[skeleton.keypoint_names[i] for i in part] for part in sorted(map(sorted, parts))]


def build_part_division(
    skeleton: Skeleton, division: str | None = None, groups: Sequence[Sequence[str]] = ()
) -> list[int]:
    """The index of the part, 0 .. M - 1, of each of the K keypoints.

    The parts are those of `division`, a name in PART_DIVISION_REGISTRY ("rigid" by default), or `groups` of keypoint
    names; given both, they must agree.
    """
    if not groups:
        division = division or "rigid"
        parts = PART_DIVISION_REGISTRY.get(division)(skeleton)
        return _part_indices(skeleton, parts, f"the part division '{division}'")
    if not all(isinstance(group, list | tuple) for group in groups):
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
    for name in names:
        if name not in skeleton.keypoint_names:
            raise UserError(
                f"{source} names the keypoint '{name}', which this data set's skeleton lacks (it has "
                f"{', '.join(skeleton.keypoint_names)}); set PART_DIVISION to 'limbs' or 'per_keypoint', or "
                "PART_GROUPS to your parts"
            )
    wrong = [name for name in skeleton.keypoint_names if names.count(name) != 1]
    if wrong or not all(parts):
        found = ", ".join(wrong) or "an empty part"
        raise UserError(f"{source} must hold every keypoint in exactly one part; check {found}")
    part_of = {name: index for index, part in enumerate(parts) for name in part}
    return [part_of[name] for name in skeleton.keypoint_names]
