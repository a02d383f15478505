"""The divisions of Figure 4, and the mistakes that a division of one's own can hold."""

import pytest
from tiny_model import BODY_NAMES

from querypose.errors import UserError
from querypose.modeling.part_division import PART_DIVISION_REGISTRY, build_part_division
from querypose.skeleton import Skeleton

COCO = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
).split()
HEAD = {"nose", "left_eye", "right_eye", "left_ear", "right_ear"}

FIGURE_4 = {
    "per_keypoint": [{name} for name in COCO],
    "joined_head": [HEAD, *({name} for name in COCO[5:])],
    "rigid": [
        HEAD,
        {"left_shoulder", "right_shoulder"},
        {"left_elbow", "left_wrist"},
        {"right_elbow", "right_wrist"},
        {"left_hip", "right_hip"},
        {"left_knee", "left_ankle"},
        {"right_knee", "right_ankle"},
    ],
    "head_and_limbs": [
        HEAD,
        {"left_shoulder", "left_elbow", "left_wrist"},
        {"right_shoulder", "right_elbow", "right_wrist"},
        {"left_hip", "left_knee", "left_ankle"},
        {"right_hip", "right_knee", "right_ankle"},
    ],
}


def skeleton_of_names(names):
    return Skeleton(tuple(names), (), (), (0.1,) * len(names))


def parts_by_name(skeleton, part_of_keypoint):
    return [
        {name for name, part in zip(skeleton.keypoint_names, part_of_keypoint, strict=True) if part == index}
        for index in range(max(part_of_keypoint) + 1)
    ]


@pytest.mark.parametrize(
    ("division", "number"), [("per_keypoint", 17), ("joined_head", 13), ("rigid", 7), ("head_and_limbs", 5)]
)
def test_divisions_of_figure_4(division, number):
    skeleton = skeleton_of_names(COCO)
    parts = parts_by_name(skeleton, build_part_division(skeleton, division))
    assert len(parts) == number
    assert parts == FIGURE_4[division]


def test_every_registered_division_is_one_of_figure_4_or_derived():
    assert {name for name, _ in PART_DIVISION_REGISTRY} == {*FIGURE_4, "limbs"}


def test_order_of_the_skeleton_does_not_change_the_parts():
    skeleton = skeleton_of_names(COCO[::-1])
    assert parts_by_name(skeleton, build_part_division(skeleton, "rigid")) == FIGURE_4["rigid"]


def test_another_skeleton_per_keypoint_or_by_groups():
    skeleton = skeleton_of_names(BODY_NAMES)
    assert build_part_division(skeleton, "per_keypoint") == [0, 1, 2, 3, 4, 5]
    groups = [["left_foot", "right_foot"], ["head", "neck"], ["right_hand"], ["left_hand"]]
    assert build_part_division(skeleton, None, groups) == [1, 1, 3, 2, 0, 0]


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (
            [["head", "nek"], ["left_hand", "right_hand", "left_foot", "right_foot"]],
            "PART_GROUPS names .*'nek'.* lacks",
        ),
        ([["head", "neck", "head"], BODY_NAMES[2:]], "PART_GROUPS holds .*'head' twice"),
        ([["head", "neck"], ["neck", *BODY_NAMES[2:]]], "PART_GROUPS holds .*'neck' twice"),
        ([["head"], BODY_NAMES[3:]], "PART_GROUPS leaves out neck, left_hand"),
        ([BODY_NAMES, []], r"PART_GROUPS has an empty part \(number 2\)"),
    ],
)
def test_mistakes_in_groups(groups, reason):
    with pytest.raises(UserError, match=reason):
        build_part_division(skeleton_of_names(BODY_NAMES), None, groups)


def test_groups_that_are_no_lists_of_names():
    for groups in (["head", "neck"], [[0, 1], [2]]):
        with pytest.raises(UserError, match="list of lists of keypoint names"):
            build_part_division(skeleton_of_names(BODY_NAMES), None, groups)


def test_unknown_division_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="'bones'; valid are head_and_limbs, joined_head, limbs, per_keypoint, rigid"):
        build_part_division(skeleton_of_names(COCO), "bones")


@pytest.mark.parametrize("division", ["joined_head", "head_and_limbs"])
def test_a_division_of_coco_s_joints_needs_them(division):
    with pytest.raises(UserError, match=f"'{division}' names the keypoint 'nose'.*'limbs'.*PART_GROUPS"):
        build_part_division(skeleton_of_names(BODY_NAMES), division)
