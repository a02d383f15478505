"""The table of modules: its numbers are the model's, and fvcore's where its counter knows the operation."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone
from detectron2.utils.analysis import FlopCountAnalysis
from load_tool import load_tool
from tiny_model import tiny_config

from querypose.analysis.flops import count_operations
from querypose.analysis.module_tree import module_table
from querypose.setup_config import setup_config

ROOT = Path(__file__).resolve().parents[1]


def whole(cfg, height, width):
    """Parameters and multiply-adds of a model."""
    model, operations = count_operations(cfg, height, width)
    return sum(parameter.numel() for parameter in model.parameters()), operations[""]


def test_modules_of_the_backbone_against_fvcore_s_counter():
    cfg = tiny_config()
    _, ours = count_operations(cfg, 64, 96)
    theirs = FlopCountAnalysis(build_backbone(cfg).eval(), (torch.zeros(1, 3, 64, 96),)).by_module_and_operator()
    assert ours["backbone"] == theirs[""]["conv"]
    # Detectron2's counter wraps what it counts as "model"
    convolutions = {name: kinds["conv"] for name, kinds in theirs.items() if name and kinds.get("conv")}
    assert len(convolutions) > 20
    for name, number in convolutions.items():
        assert ours["backbone" + name.removeprefix("model")] == number, name


@pytest.mark.parametrize(
    "options",
    [
        ("full", "MODEL.COMPILE", "default"),
        ("full", "MODEL.QUERYPOSE.PART_EMBEDDING", "PartSelfAttention"),
        ("light", "MODEL.QUERYPOSE.KEYPOINT_STAGE", "PooledKeypointStage"),
    ],
)
def test_a_stage_is_its_modules_and_roi_align(options):
    cfg = tiny_config(*options)
    _, operations = count_operations(cfg, 64, 96)
    stage = "decoder.box_stages.0"
    direct = [number for name, number in operations.items() if name.rpartition(".")[0] == stage]
    # 6 queries, 16 channels, 5 x 5 locations, each of 2 x 2 samples between 2 x 2 values
    assert operations[stage] - sum(direct) == 6 * 16 * 25 * 16
    parts = ("backbone", "decoder.box_stages", "decoder.keypoint_stages")
    assert sum(operations[part] for part in parts) == operations[""] > operations["decoder"] > 0


def test_lines_of_the_table():
    lines = module_table(tiny_config("light"), 64, 96, depth=2).splitlines()
    parameters, total = whole(tiny_config("light"), 64, 96)
    wanted = [f"{parameters / 1e3:.1f}", "k", "100.0", f"{total / 1e6:.1f}", "M", "100.0"]
    assert lines[2].split()[2:] == wanted
    assert lines[3].startswith("  ") and not lines[2].startswith(" "), "modules are indented by their depth"
    assert any(line.strip().startswith("criterion") and line.split()[-2:] == ["0", "0.0"] for line in lines)
    deeper = module_table(tiny_config("light"), 64, 96, depth=3).splitlines()
    assert sum(line.strip().startswith("0 .. 1  ") for line in deeper) >= 2, "stages with the same numbers share a line"
    assert len(module_table(tiny_config(), 64, 96, depth=0).splitlines()) == 3


def test_tool(capsys):
    config = str(ROOT / "configs/quickstart.yaml")
    load_tool("analyze_model").main(
        ["--config-file", config, "--depth", "1", "--size", "161", "192", "MODEL.QUERYPOSE.NUM_QUERIES", "4"]
    )
    title, _, _, model, *parts = capsys.readouterr().out.splitlines()
    parameters, total = whole(setup_config(config, ["MODEL.QUERYPOSE.NUM_QUERIES", "4"]), 192, 192)
    assert title.endswith("one image of 192 x 192 pixels") and len(parts) == 3
    assert model.split()[2:7:3] == [f"{parameters / 1e6:.1f}", f"{total / 1e6:.1f}"]
