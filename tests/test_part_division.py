"""The divisions of Figure 4, those derived from limbs, and mistakes in divisions of one's own."""

import pytest
from tiny_model import BODY_NAMES

from querypose.data.crowdpose import CROWDPOSE_SKELETON
from querypose.errors import UserError
from querypose.modeling.part_division import build_part_division, part_groups
from querypose.skeleton import Skeleton, flip_pairs_by_name

COCO = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
).split()
HEAD = {"nose", "left_eye", "right_eye", "left_ear", "right_ear"}


def limb(side, *joints):
    return {f"{side}_{joint}" for joint in joints}


FIGURE_4 = {
    "per_keypoint": [{name} for name in COCO],
    "joined_head": [HEAD, *({name} for name in COCO[5:])],
    "rigid": [
        *(HEAD, {"left_shoulder", "right_shoulder"}, limb("left", "elbow", "wrist"), limb("right", "elbow", "wrist")),
        *({"left_hip", "right_hip"}, limb("left", "knee", "ankle"), limb("right", "knee", "ankle")),
    ],
    "head_and_limbs": [
        *(HEAD, limb("left", "shoulder", "elbow", "wrist"), limb("right", "shoulder", "elbow", "wrist")),
        *(limb("left", "hip", "knee", "ankle"), limb("right", "hip", "knee", "ankle")),
    ],
}
# the limbs of person_keypoints_train2017.json
COCO_LIMBS = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9],
    [8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]  # fmt: skip


def skeleton(names, limbs=()):
    names = names.split() if isinstance(names, str) else names
    return Skeleton(tuple(names), flip_pairs_by_name(names), tuple(limbs), (0.1,) * len(names))


def part_names(skeleton, division):
    return part_groups(skeleton, build_part_division(skeleton, division))


def parts(skeleton, division):
    return [set(part) for part in part_names(skeleton, division)]


@pytest.mark.parametrize("division", FIGURE_4)
@pytest.mark.parametrize("names", [COCO, COCO[::-1]])
def test_divisions_of_figure_4(division, names):
    wanted = FIGURE_4[division]
    assert sorted(map(sorted, parts(skeleton(names), division))) == sorted(map(sorted, wanted))
    if division == "rigid" or names == COCO:
        assert parts(skeleton(names), division) == wanted
    limbs = [(names.index(COCO[i - 1]), names.index(COCO[j - 1])) for i, j in COCO_LIMBS]
    found = parts(skeleton(names, limbs), "limbs")
    assert sorted(map(sorted, found)) == sorted(map(sorted, FIGURE_4["rigid"]))


def test_groups():
    groups = [["left_foot", "right_foot"], ["head", "neck"], ["right_hand"], ["left_hand"]]
    assert build_part_division(skeleton(BODY_NAMES), None, groups) == [1, 1, 3, 2, 0, 0]


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([["head", "nek"], BODY_NAMES[2:]], "PART_GROUPS names .*'nek'.* lacks"),
        ([["head", "neck"], ["neck", *BODY_NAMES[2:]]], "PART_GROUPS must hold .* in exactly one part; check neck"),
        ([["head"], BODY_NAMES[3:]], "check neck, left_hand"),
        ([BODY_NAMES, []], "check an empty part"),
        (["head", "neck"], "list of lists of keypoint names"),
    ],
)
def test_mistakes_in_groups(groups, reason):
    with pytest.raises(UserError, match=reason):
        build_part_division(skeleton(BODY_NAMES), None, groups)


@pytest.mark.parametrize("division", ["joined_head", "head_and_limbs"])
def test_a_division_of_coco_s_joints_needs_them(division):
    with pytest.raises(UserError, match=f"'{division}' names the keypoint 'nose'.*'limbs'.*PART_GROUPS"):
        build_part_division(skeleton(BODY_NAMES), division)


def test_crowdpose():
    assert part_names(CROWDPOSE_SKELETON, "rigid") == [
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
        ("a b c", [], "a b c"),
        ("a b", [(0, 1)], "ab"),
        # a chain, from both ends inwards
        ("a b c d", [(0, 1), (1, 2), (2, 3)], "ab cd"),
        ("a b c d e", [(0, 1), (1, 2), (2, 3), (3, 4)], "ab c de"),
        ("a b c", [(0, 1), (1, 2)], "a bc"),
        # a triangle is rigid, and what hangs on it belongs to it; a ring of four bends
        ("a b c d", [(0, 1), (1, 2), (0, 2), (2, 3)], "abcd"),
        ("a b c d", [(0, 1), (1, 2), (2, 3), (3, 0)], "ab cd"),
        # braced, it does not bend; two triangles hinged in one keypoint do
        ("a b c d", [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)], "abcd"),
        ("a b c d e", [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (2, 4)], "abc de"),
        # no limb said twice or in both directions counts twice
        ("a b c", [(0, 1), (1, 0), (1, 2)], "a bc"),
        # sides are treated alike: of a star's hands and feet none is preferred, so that the head joins the neck
        ("n h left_a right_a left_b right_b", [(0, i) for i in range(1, 6)], "nh left_a right_a left_b right_b"),
        ("nose left_eye right_eye", [(0, 1), (0, 2)], "nose left_eye right_eye"),
    ],
)
def test_small_graphs(names, limbs, expected):
    assert ["".join(part) for part in part_names(skeleton(names, limbs), "limbs")] == expected.split()


def test_a_hand_of_21():
    fingers = ["thumb", "index", "middle", "ring", "little"]
    names = ["wrist", *(f"{finger}{joint}" for finger in fingers for joint in range(1, 5))]
    limbs = [(0, 1 + 4 * f) for f in range(5)] + [(4 * f + i, 4 * f + i + 1) for f in range(5) for i in (1, 2, 3)]
    expected = [{"wrist"}] + [{f"{finger}{i}", f"{finger}{i + 1}"} for finger in fingers for i in (1, 3)]
    assert parts(skeleton(names, limbs), "limbs") == expected
