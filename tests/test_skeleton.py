"""The skeleton: what it derives from names and metadata, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from hands import HANDS
from pycocotools.cocoeval import Params

from querypose import skeleton
from querypose.data.crowdpose import CROWDPOSE_NAMES
from querypose.errors import UserError
from querypose.skeleton import Skeleton, flip_pairs_by_name, known_sigmas, split_side

COCO = MetadataCatalog.get("keypoints_coco_2017_val")


def small_skeleton(**changes):
    parts = {"keypoint_names": ("head", "left_hand", "right_hand"), "flip_pairs": (("left_hand", "right_hand"),)}
    return Skeleton(**{**parts, "limbs": ((0, 1), (0, 2)), "sigmas": (0.1, 0.2, 0.2), **changes})


def test_coco_metadata_gives_cocos_own_numbers():
    found = Skeleton.from_metadata(COCO)
    # nose, then eyes, ears, .., ankles in pairs of left and right
    assert found.flip_indices == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    assert found.sigmas == pytest.approx(Params("keypoints").kpt_oks_sigmas)
    assert found.sides == ("middle", *("left", "right") * 8)
    assert len(found.limbs) == len(COCO.keypoint_connection_rules)
    # a category agrees, else Detectron2 refuses to train on its COCO and on a file of one's own together
    metadata = Skeleton.from_coco_category({"name": "person", "keypoints": list(COCO.keypoint_names)}).to_metadata()
    assert metadata["keypoint_names"] == COCO.keypoint_names
    assert metadata["keypoint_flip_map"] == COCO.keypoint_flip_map


def test_crowdpose_category_gives_the_official_flip_indices_and_sigmas(caplog):
    # the official files carry COCO's limbs, which go beyond these 14 keypoints
    category = {"name": "person", "keypoints": list(CROWDPOSE_NAMES), "skeleton": [[16, 14], [6, 8], [9, 11]]}
    found = Skeleton.from_coco_category(category)
    assert found.flip_indices == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12, 13]
    official = [0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79]
    assert found.sigmas == pytest.approx([sigma / 10 for sigma in official])
    joined = {frozenset(CROWDPOSE_NAMES[i] for i in limb) for limb in found.limbs}
    assert {"head", "neck"} in joined and {"left_hip", "left_knee"} in joined
    assert {"left_shoulder", "right_elbow"} not in joined and "indices outside of 1 to 14" in caplog.text


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Left_Paw", "Right_Paw"), ("l_paw", "r_paw"), ("paw_left", "paw_right"), ("left paw", "right paw"),
        ("leftPaw", "rightPaw"), ("LPaw", "RPaw"), ("front_left_paw", "front_right_paw"), ("PAW-L", "PAW-R"),
        ("lpaw", "rpaw"), ("leftpaw", "rightpaw"), ("pawL", "pawR"), ("linke_pfote_links", "linke_pfote_rechts"),
        ("patte gauche", "patte droite"), ("pied_gauche", "pied_droit"), ("左足", "右足"), ("hand_l2", "hand_r2"),
        ("foreLegL4", "foreLegR4"), ("LeftEyeLeftCorner", "RightEyeRightCorner"), ("left_ear_left", "right_ear_right"),
    ],
)  # fmt: skip
def test_sides_are_found_in_names(left, right):
    assert flip_pairs_by_name([right, "tail", left]) == ((left, right),)


def test_names_that_only_look_like_sides(monkeypatch):
    for name in ("nose", "leftover", "rib", "roller", "Root of tail", "l"):
        assert split_side(name)[0] == "middle"
    assert flip_pairs_by_name(["lip", "rib", "leg", "left", "rear"]) == ()
    assert known_sigmas(["lhip", "rhip", "hip_x"]) == (0.107, 0.107, 0.05)
    names = ["goti_kushoto", "goti_kulia"]
    assert flip_pairs_by_name(names) == ()
    monkeypatch.setattr(skeleton, "SIDE_WORDS", [*skeleton.SIDE_WORDS, ("kushoto", "kulia")])
    assert flip_pairs_by_name(names) == (("goti_kushoto", "goti_kulia"),)


def test_skeletons_that_a_flip_would_spoil():
    assert HANDS.flip_warning() is None
    assert small_skeleton(keypoint_names=["center"], flip_pairs=[], limbs=[], sigmas=[1]).flip_warning() is None
    assert "left_hand/right_hand" in small_skeleton(flip_pairs=[]).flip_warning()
    assert "flip is off" in small_skeleton(keypoint_names=["1", "2", "3"], flip_pairs=[]).flip_warning()


def test_category_entries_take_precedence_over_names():
    category = {"name": "sign", "keypoints": ["a", "b", "nose"], "flip_pairs": [["a", "b"]], "skeleton": [[1, 3]]}
    found = Skeleton.from_coco_category(category)
    assert found.flip_indices == [1, 0, 2] and found.limbs == ((0, 2),)
    assert found.sigmas == (0.05, 0.05, 0.026)
    category["sigmas"] = [1, 2, 3]
    assert Skeleton.from_coco_category(category).sigmas == (1, 2, 3)
    assert Skeleton.from_coco_category(category, sigmas=[4, 5, 6]).sigmas == (4, 5, 6)


def test_metadata_of_a_user():
    eyes = {"keypoint_names": ["right_eye", "left_eye"], "keypoint_flip_map": [("right_eye", "left_eye")]}
    found = Skeleton.from_metadata(SimpleNamespace(**eyes, keypoint_connection_rules=None), np.array([0.1, 0.2]))
    assert found.flip_pairs == (("left_eye", "right_eye"),) and found.sigmas == (0.1, 0.2)
    given = {"keypoint_names": ["r", "nose", "l"], "keypoint_flip_map": [("l", "r"), ("nose", "nose")]}
    given["keypoint_connection_rules"] = [("r", "chin", (0, 0, 0)), ("nose", "l", (0, 0, 0))]
    given["keypoint_oks_sigmas"] = np.array([0.1, 0.2, 0.3])  # as Detectron2's evaluators take them
    found = Skeleton.from_metadata(SimpleNamespace(**given))
    assert found.sides == ("right", "middle", "left") and found.flip_indices == [2, 1, 0]
    assert found.limbs == ((1, 2),) and found.sigmas == (0.1, 0.2, 0.3)
    assert Skeleton.from_metadata(SimpleNamespace(**given), sigmas=[1, 2, 3]).sigmas == (1, 2, 3)
    with pytest.raises(UserError, match="'coco_2017_val' has no keypoint names"):
        Skeleton.from_metadata(MetadataCatalog.get("coco_2017_val"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        *(({"keypoint_names": names}, "distinct keypoint names") for names in ((), ("head", "left_hand", "head"))),
        ({"flip_pairs": (("left_hand", "foot"),)}, r"flip pair \('left_hand', 'foot'\)"),
        ({"flip_pairs": (("left_hand", "right_hand"), ("head", "left_hand"))}, "in no other pair"),
        *(({"flip_pairs": (pair,)}, "the flip pair") for pair in (("head", "head"), ("head",))),
        *(({"limbs": (limb,)}, "the limb") for limb in ((0, 3), (-1, 1), (1, 1))),
        ({"sigmas": (0.1, 0.2)}, "3 keypoints but 2 OKS sigmas"),
        *(({"sigmas": (0.1, 0.2, bad)}, "positive") for bad in (0.0, float("nan"))),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, reason):
    with pytest.raises(UserError, match=reason):
        small_skeleton(**changes)
