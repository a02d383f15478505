"""Parts derived from limbs: the paper's division of COCO's skeleton, and what other graphs must give."""

import pytest

from querypose.data.crowdpose import CROWDPOSE_SKELETON
from querypose.modeling.part_division import build_part_division, part_groups
from querypose.skeleton import Skeleton

# the limbs of person_keypoints_train2017.json
COCO_LIMBS = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9],
    [8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]  # fmt: skip
COCO = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
).split()


def skeleton(names, limbs):
    names = names.split() if isinstance(names, str) else names
    category = {"name": "figure", "keypoints": names, "skeleton": [[i + 1, j + 1] for i, j in limbs]}
    return Skeleton.from_coco_category(category)


def parts(names, limbs, division="limbs"):
    given = skeleton(names, limbs)
    part_of_keypoint = build_part_division(given, division)
    return [
        {name for name, part in zip(given.keypoint_names, part_of_keypoint, strict=True) if part == index}
        for index in range(max(part_of_keypoint) + 1)
    ]


def test_coco_s_limbs_give_the_paper_s_division():
    coco = skeleton(COCO, [(i - 1, j - 1) for i, j in COCO_LIMBS])
    assert build_part_division(coco, "limbs") == build_part_division(coco, "rigid")
    # in any order of the keypoints
    order = COCO[::-1]
    limbs = [(order.index(COCO[i - 1]), order.index(COCO[j - 1])) for i, j in COCO_LIMBS]
    assert {frozenset(part) for part in parts(order, limbs)} == {
        frozenset(part) for part in parts(COCO, limbs, "rigid")
    }


def test_crowdpose():
    assert part_groups(CROWDPOSE_SKELETON, build_part_division(CROWDPOSE_SKELETON, "rigid")) == [
        ["left_shoulder", "right_shoulder", "head", "neck"],
        ["left_elbow", "left_wrist"],
        ["right_elbow", "right_wrist"],
        ["left_hip", "right_hip"],
        ["left_knee", "left_ankle"],
        ["right_knee", "right_ankle"],
    ]


@pytest.mark.parametrize(
    ("names", "limbs", "expected"),
    [
        ("a", [], ["a"]),
        ("a b c", [], ["a", "b", "c"]),
        ("a b", [(0, 1)], ["ab"]),
        # a chain, from both ends inwards
        ("a b c d", [(0, 1), (1, 2), (2, 3)], ["ab", "cd"]),
        ("a b c d e", [(0, 1), (1, 2), (2, 3), (3, 4)], ["ab", "c", "de"]),
        ("a b c", [(0, 1), (1, 2)], ["a", "bc"]),
        # a triangle is rigid, and what hangs on it belongs to it; a ring of four bends
        ("a b c d", [(0, 1), (1, 2), (0, 2), (2, 3)], ["abcd"]),
        ("a b c d", [(0, 1), (1, 2), (2, 3), (3, 0)], ["ab", "cd"]),
        # braced, it does not bend; two triangles hinged in one keypoint do
        ("a b c d", [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)], ["abcd"]),
        ("a b c d e", [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (2, 4)], ["abc", "de"]),
        # no limb said twice or in both directions counts twice
        ("a b c", [(0, 1), (1, 0), (1, 2)], ["a", "bc"]),
    ],
)
def test_small_graphs(names, limbs, expected):
    assert parts(names, limbs) == [set(part) for part in expected]


def test_sides_are_treated_alike():
    # a star: hands and feet mirror each other, the head is the one extremity in the middle
    names = "neck head left_hand right_hand left_foot right_foot"
    star = [(0, i) for i in range(1, 6)]
    middle = ["neck", "head"], ["left_hand"], ["right_hand"], ["left_foot"], ["right_foot"]
    assert parts(names, star) == [set(part) for part in middle]
    assert parts("nose left_eye right_eye", [(0, 1), (0, 2)]) == [{"nose"}, {"left_eye"}, {"right_eye"}]


def test_a_hand_of_21():
    fingers = ["thumb", "index", "middle", "ring", "little"]
    names = ["wrist", *(f"{finger}{joint}" for finger in fingers for joint in range(1, 5))]
    limbs = [(0, 1 + 4 * f) for f in range(5)] + [(4 * f + i, 4 * f + i + 1) for f in range(5) for i in (1, 2, 3)]
    expected = [{"wrist"}] + [{f"{finger}{i}", f"{finger}{i + 1}"} for finger in fingers for i in (1, 3)]
    assert parts(names, limbs) == expected
