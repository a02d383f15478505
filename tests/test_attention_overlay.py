"""Attention of the persons that inference returns, and its visualizations (Figure 5)."""

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes
from hands import HANDS, two_persons
from load_tool import load_tool
from PIL import Image
from tiny_model import tiny_config

from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.visualization.attention import overlay_attention, part_names


def test_the_maps_lie_over_their_boxes_and_leave_the_rest():
    image = np.full((60, 100, 3), 128, np.uint8)
    attention = np.zeros((3, 2, 4, 4))
    attention[0, 0, 1, 3], attention[0, 1, 3, 0] = 0.9, 0.001  # each part by its own maximum
    attention[1, 0, 2, 2] = 1.0
    attention[2] = 1.0
    boxes = [[0, 0, 40, 40], [60, 20, 100, 60], [50, 10, 50, 20]]  # the last one has no area
    overlaid = overlay_attention(image, attention, boxes, opacity=1.0).astype(int)
    # a location spans 10 pixels; between two centers the overlay fades
    brightness = overlaid.sum(axis=2)
    for x, y in ((35, 15), (5, 35), (85, 45)):
        assert brightness[y - 1 : y + 1, x - 1 : x + 1].min() > 600
    changed = (overlaid != 128).any(axis=2)
    assert not changed[:, 46:74].any() and not changed[:4].any() and not changed[50:, :74].any()
    assert np.array_equal(overlay_attention(image, np.zeros((0, 2, 4, 4)), np.zeros((0, 4))), image)


def test_names_of_parts():
    cfg = tiny_config()
    names = part_names(cfg, skeleton_of(cfg))
    assert len(names) == 7 and names[2] == "left elbow, left wrist"


class StubPredictor:
    skeleton = HANDS
    cfg = CfgNode({"MODEL": {"QUERYPOSE": {"NUM_STAGES": 3, "PART_DIVISION": "per_keypoint", "PART_GROUPS": []}}})

    def __init__(self, config_file, score_threshold=0.2, top_k=10, opts=()):
        StubPredictor.opts = opts

    def with_attention(self, image, stage):
        StubPredictor.stage = stage
        persons = two_persons()
        persons.attention_boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 50.0], [0, 0, 9, 9]]))
        persons.part_attention = torch.full((2, 2, 16, 16), 1 / 256)
        return persons[: int(image.max() > 0)]


def test_the_tool_writes_an_image_per_person_and_a_sheet(tmp_path, capsys, monkeypatch):
    tool = load_tool("visualize_attention")
    monkeypatch.setattr(tool, "PosePredictor", StubPredictor)
    for name, value in (("one", 80), ("none", 0)):
        Image.fromarray(np.full((60, 100, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    given, files = ["--output", str(tmp_path / "out")], [str(tmp_path / "one.png"), str(tmp_path / "none.png")]
    tool.main([*given, "--input", *files, "MODEL.WEIGHTS", "w.pth"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one_attention.png", "one_person1.png"]
    assert StubPredictor.opts == ["MODEL.WEIGHTS", "w.pth"] and StubPredictor.stage == 2
    assert "none.png: 0 persons" in capsys.readouterr().out
    # the box of 40 x 40 with 4 pixels around it, the pose five times as large
    image = np.full((60, 100, 3), 80, np.uint8)
    pose, part, _ = tool.person_panels(image, StubPredictor("").with_attention(image, 0), 0)
    assert pose.shape == (240, 240, 3) and part.shape == (48, 48, 3)
    assert (pose[72, 22] != 80).any(), "the left hand at (10.5, 20.5)"
    assert (part[24, 24] != 40).any() and (part[1, 1] == 40).all(), "the map lies over the box"

    assert tool.main([*given, "--stage", "1", "--input", str(tmp_path / "absent.png"), files[0]]) == 2
    assert StubPredictor.stage == 0 and "absent.png does not exist" in capsys.readouterr().err
    with pytest.raises(UserError, match="--stage 0, but this model has the stages 1 to 3"):
        tool.main([*given, "--input", *files, "--stage", "0"])
