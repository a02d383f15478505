"""Attention of the persons that inference returns, and its pictures (Figure 5)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from PIL import Image
from tiny_model import tiny_config

from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.modeling import build_part_division
from querypose.skeleton import Skeleton
from querypose.visualization import glow_attention, overlay_attention, part_names, person_panels

ROOT = Path(__file__).resolve().parents[1]
HANDS = Skeleton(("left_hand", "right_hand"), (("left_hand", "right_hand"),), ((0, 1),), (0.05, 0.05))


def test_a_place_of_the_map_lies_where_it_should():
    attention = np.zeros((4, 8))
    attention[1, 6] = 0.7
    picture = overlay_attention(np.full((60, 100, 3), 255, np.uint8), attention, (10, 20, 90, 60), opacity=1.0)
    # the place spans x 70 .. 80, y 30 .. 40
    brightness = picture[20:60, 10:90].sum(axis=2).astype(int)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert (column + 10, row + 20) in [(x, y) for x in (74, 75) for y in (34, 35)]
    assert picture[34, 74].min() > 150 and tuple(picture[22, 12]) == (150, 0, 0)
    assert (picture[:20] == 255).all() and (picture[:, :10] == 255).all() and (picture[:, 90:] == 255).all()


def test_boxes_that_leave_the_image():
    image = np.full((20, 30, 3), 100, np.uint8)
    inside = overlay_attention(image, np.eye(4), (-10, -10, 50, 50))
    assert inside.shape == image.shape and (inside != 100).any() and (image == 100).all()
    assert (overlay_attention(image, np.eye(4), (40, 40, 60, 60)) == 100).all()
    with pytest.raises(UserError, match="needs a box .* with an area"):
        overlay_attention(image, np.eye(4), (10, 10, 10, 20))
    with pytest.raises(UserError, match="must have shape"):
        overlay_attention(image, np.ones((2, 3, 4)), (0, 0, 10, 20))


def test_all_parts_of_all_persons_glow_where_they_look_and_the_rest_stays():
    image = np.full((60, 100, 3), 128, np.uint8)
    attention = np.zeros((3, 2, 4, 4))
    attention[0, 0, 1, 3], attention[0, 1, 3, 0] = 0.9, 0.001  # each part glows by its own strongest place
    attention[1, 0, 2, 2] = 1.0
    attention[2] = 1.0
    boxes = [[0, 0, 40, 40], [60, 20, 100, 60], [50, 10, 50, 20]]  # the last one has no area
    picture = glow_attention(image, attention, boxes, opacity=1.0)
    for x, y in ((35, 15), (5, 35), (85, 45)):
        # green is low in a dim glow and high in a strong one; a place spans 10 pixels around these
        assert picture[y, x].min() > 200 and picture[y, x, 0] >= picture[y, x, 1]
    changed = (picture != 128).any(axis=2)
    assert not changed[:, 41:60].any() and not changed[:20, 60:].any() and not changed[0:4, 0:20].any()
    assert (image == 128).all()
    assert np.array_equal(glow_attention(image, np.zeros((0, 2, 4, 4)), np.zeros((0, 4))), image)
    with pytest.raises(UserError, match="with a box for each person"):
        glow_attention(image, attention, boxes[:2])


def test_names_of_parts():
    skeleton = skeleton_of(tiny_config())
    assert part_names(skeleton, build_part_division(skeleton, "rigid")) == [
        "nose, eyes, ears", "shoulders", "left elbow, wrist", "right elbow, wrist", "hips", "left knee, ankle",
        "right knee, ankle",
    ]  # fmt: skip
    assert part_names(skeleton, build_part_division(skeleton, "per_keypoint"))[1] == "left eye"


def person(image_size=(60, 100)):
    instances = Instances(image_size)
    instances.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
    instances.scores = torch.tensor([0.8])
    instances.pred_keypoints = torch.tensor([[[20.0, 30.0, 0.9], [40.0, 30.0, 0.9]]])
    instances.part_attention = torch.full((1, 2, 4, 4), 1 / 16)
    instances.attention_boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
    return instances


def test_panels_of_a_person():
    pictures = person_panels(np.full((60, 100, 3), 50, np.uint8), person(), 0, HANDS, height=96, margin=0.1)
    # the box of 40 x 40 with 4 pixels around it, twice as large
    assert [picture.shape for picture in pictures] == [(96, 96, 3)] * 3
    pose, part, _ = pictures
    assert (pose[48, 28] != 50).any() and (pose[48, 67] != 50).any(), "keypoints at (20, 30) and (40, 30)"
    assert (part[48, 48] != 50).any() and (part[2, 2] == 50).all(), "the map lies in the box alone"


class StubPredictor:
    skeleton = HANDS
    cfg = CfgNode({"MODEL": {"QUERYPOSE": {"NUM_STAGES": 3, "PART_DIVISION": "per_keypoint", "PART_GROUPS": []}}})

    def __init__(self, config_file, *, score_threshold, opts):
        StubPredictor.opts = opts

    def with_attention(self, image, stage):
        StubPredictor.stage = stage
        return person() if image.max() > 0 else person()[:0]


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("visualize_attention", ROOT / "tools/visualize_attention.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PosePredictor", StubPredictor)
    return module


def test_the_tool_writes_a_picture_per_person_and_a_sheet(tool, tmp_path, capsys):
    for name, value in (("one", 80), ("none", 0)):
        Image.fromarray(np.full((60, 100, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / "one.png"), str(tmp_path / "none.png")]
    tool.main(["--config-file", "c", "--output", str(tmp_path / "out"), "--input", *files, "MODEL.WEIGHTS", "w.pth"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one_attention.png", "one_person1.png"]
    assert StubPredictor.opts == ["MODEL.WEIGHTS", "w.pth"] and StubPredictor.stage == 2
    assert "none.png: 0 persons" in capsys.readouterr().out
    tool.main(["--config-file", "c", "--output", str(tmp_path / "out"), "--input", files[0], "--stage", "1"])
    assert StubPredictor.stage == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--input", "none.jpg"], "there is no image none.jpg"),
        (["--input", "{}", "--stage", "4"], "--stage 4, but this model has the stages 1 to 3"),
        (["--input", "{}", "--stage", "0"], "--stage 0, but"),
        (["--input", "{}", "{}"], "two images are named a"),
        (["--input", "{}", "--persons", "0"], "--persons 0 must be at least 1"),
    ],
)
def test_mistakes(tool, tmp_path, arguments, reason):
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    arguments = [argument.format(image) for argument in arguments]
    with pytest.raises(UserError, match=reason):
        tool.main(["--config-file", "c", "--output", str(tmp_path / "out"), *arguments])
