"""The counted costs agree with closed forms, and docs/MODEL_ZOO.md with the configs."""

import json
from pathlib import Path

import pytest
from detectron2.modeling import build_model
from tiny_model import tiny_config

from querypose.analysis import model_zoo
from querypose.analysis.flops import count_operations
from querypose.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "MODEL_ZOO.md"


def box_stage(n, d, size, hidden, feedforward, classes, boxes):
    """Multiply-adds of one box stage for n queries, written out."""
    places = size * size
    region = 16 * places * d
    attention = 3 * d * d + 2 * n * d + d * d
    interaction = d * 2 * d * hidden + 2 * places * d * hidden + places * d * d
    heads = (classes + boxes) * d * d + d + 4 * d
    return n * (region + attention + interaction + 2 * d * feedforward + heads)


def keypoint_stage(n, d, dp, size, tower, parts, feedforward, keypoints, hidden):
    """Multiply-adds of one keypoint stage for n persons; `hidden` of the full variant's interaction, 0 for light."""
    places = size * size
    region = 16 * places * d
    convolutions = 9 * places * sum(before * after for before, after in zip(tower, tower[1:], strict=False))
    step_2 = d * 2 * d * hidden + 2 * places * d * hidden + places * d * d + 2 * d * feedforward if hidden else 0
    # a transposed convolution: every input place meets all 4 x 4 weights
    spegm = places * d * d * 16 + 4 * places * (9 * d * parts + parts * d) + parts * d * dp
    to_parts = parts * d * dp
    sim = parts * (dp * dp // 4 + dp // 4 * 2 * dp)
    attention = parts * (4 * dp * dp + 2 * parts * dp) + parts * 2 * dp * feedforward
    heads = 2 * keypoints * 2 * dp
    return n * (region + convolutions + step_2 + spegm + to_parts + sim + attention + heads)


@pytest.mark.parametrize("variant", ["light", "full"])
def test_stages_against_closed_forms(variant):
    model, operations = count_operations(tiny_config(variant), 64, 96)
    assert operations["decoder.box_stages"] == 2 * box_stage(6, 16, 5, 4, 32, 1, 3)
    hidden = 4 if variant == "full" else 0
    expected = 2 * keypoint_stage(6, 16, 16, 6, (16, 16, 16), 7, 32, 17, hidden)
    assert operations["decoder.keypoint_stages"] == expected
    allocated = build_model(tiny_config(variant))
    assert [p.shape for p in model.parameters()] == [p.shape for p in allocated.parameters()]


def test_every_config_has_a_row():
    table = PAGE.read_text().split("*Parameters*")[0]
    listed = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert listed == model_zoo.zoo_configs() and "crowdpose/querypose_Swin-L" in listed
    assert {*model_zoo.OTHERWISE_REPORTED, *model_zoo.NOT_OF_THE_PAPER} <= set(listed)
    reported = [model_zoo.reported(name) for name in ("querypose_R50", "crowdpose/querypose_Swin-L", "querypose_R101")]
    assert reported == ["68.7 (Table 4)", "72.7 (Table 6)", "-"]


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert PAGE.read_text() == model_zoo.model_zoo_page()


def test_results(tmp_path):
    (tmp_path / "querypose_R50.json").write_text(json.dumps({"keypoints": {"AP": 12.34}}))
    assert model_zoo.reproduced("querypose_R50", tmp_path) == "12.3"
    assert model_zoo.reproduced("querypose_R101", tmp_path) == model_zoo.reproduced("querypose_R50", None)
    (tmp_path / "querypose_R50.json").write_text("{}")
    with pytest.raises(UserError, match="holds no keypoint AP; write it with tools/evaluate_results.py"):
        model_zoo.reproduced("querypose_R50", tmp_path)
