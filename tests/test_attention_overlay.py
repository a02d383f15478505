"""Attention of the persons that inference returns, and its visualizations (Figure 5)."""

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from load_tool import load_tool
from PIL import Image
from tiny_model import tiny_config

from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.skeleton import Skeleton
from querypose.visualization.attention import overlay_attention, part_names

HANDS = Skeleton(("left_hand", "right_hand"), (("left_hand", "right_hand"),), ((0, 1),), (0.05, 0.05))


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
    assert (image == 128).all()
    assert np.array_equal(overlay_attention(image, np.zeros((0, 2, 4, 4)), np.zeros((0, 4))), image)
    with pytest.raises(UserError, match="with a box for each person"):
        overlay_attention(image, attention, boxes[:2])


def test_names_of_parts():
    cfg = tiny_config()
    names = part_names(cfg, skeleton_of(cfg))
    assert len(names) == 7 and names[2] == "left elbow, left wrist"


def person():
    instances = Instances((60, 100))
    instances.pred_boxes = instances.attention_boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
    instances.scores = torch.tensor([0.8])
    instances.pred_keypoints = torch.tensor([[[20.0, 30.0, 0.9], [40.0, 30.0, 0.9]]])
    instances.part_attention = torch.full((1, 2, 16, 16), 1 / 256)
    return instances


def test_panels_of_a_person():
    pose, part, _ = panels = person_panels(np.full((60, 100, 3), 50, np.uint8), person(), 0, HANDS, height=96)
    # the box of 40 x 40 with 4 pixels around it, twice as large
    assert [panel.shape for panel in panels] == [(96, 96, 3)] * 3
    assert (pose[48, 28] != 50).any() and (pose[48, 67] != 50).any(), "keypoints at (20, 30) and (40, 30)"
    assert (part[48, 48] != 50).any() and (part[1, 1] == 25).all(), "the map lies over the box"


class StubPredictor:
    skeleton = HANDS
    cfg = CfgNode({"MODEL": {"QUERYPOSE": {"NUM_STAGES": 3, "PART_DIVISION": "per_keypoint", "PART_GROUPS": []}}})

    def __init__(self, config_file, *, score_threshold, top_k, opts):
        StubPredictor.opts = opts

    def with_attention(self, image, stage):
        StubPredictor.stage = stage
        return person() if image.max() > 0 else person()[:0]


def test_the_tool_writes_an_image_per_person_and_a_sheet(tmp_path, capsys, monkeypatch):
    main = load_tool("visualize_attention").main
    monkeypatch.setitem(main.__globals__, "PosePredictor", StubPredictor)
    for name, value in (("one", 80), ("none", 0)):
        Image.fromarray(np.full((60, 100, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    given, files = ["--output", str(tmp_path / "out")], [str(tmp_path / "one.png"), str(tmp_path / "none.png")]
    main([*given, "--input", *files, "MODEL.WEIGHTS", "w.pth"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one_attention.png", "one_person1.png"]
    assert StubPredictor.opts == ["MODEL.WEIGHTS", "w.pth"] and StubPredictor.stage == 2
    assert "none.png: 0 persons" in capsys.readouterr().out
    assert main([*given, "--stage", "1", "--input", str(tmp_path / "absent.png"), files[0]]) == 2
    assert StubPredictor.stage == 0 and "absent.png does not exist" in capsys.readouterr().err
    with pytest.raises(UserError, match="--stage 0, but this model has the stages 1 to 3"):
        main([*given, "--input", *files, "--stage", "0"])
