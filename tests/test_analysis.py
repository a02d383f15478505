"""Multiply-adds agree with closed forms and with fvcore, the table of modules and docs/MODEL_ZOO.md with both."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.analysis import FlopCountAnalysis
from load_tool import load_tool
from tiny_model import tiny_config

from querypose.analysis import count_operations, module_table
from querypose.reproduction.runs import load_tables
from querypose.setup_config import setup_config

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "MODEL_ZOO.md"
make_model_zoo = load_tool("make_model_zoo")


@pytest.mark.parametrize(("variant", "hidden"), [("light", 0), ("full", 4)])
def test_stages_against_closed_forms(variant, hidden):
    """`hidden` is the width of the keypoint stages' dynamic MLP, 0 without one."""
    model, operations = count_operations(tiny_config(variant), 64, 96)
    n, d, feedforward, places = 6, 16, 32, 5 * 5
    region = 16 * places * d
    attention = 3 * d * d + 2 * n * d + d * d
    interaction = d * 2 * d * 4 + 2 * places * d * 4 + places * d * d
    heads = (1 + 3) * d * d + d + 4 * d
    box_stage = n * (region + attention + interaction + 2 * d * feedforward + heads)
    assert operations["decoder.box_stages"] == 2 * box_stage

    dp, places, parts, keypoints = 16, 6 * 6, 7, 17
    region = 16 * places * d
    tower = 9 * places * 2 * d * d
    step_2 = d * 2 * d * hidden + 2 * places * d * hidden + places * d * d + 2 * d * feedforward if hidden else 0
    # a transposed convolution: every input place meets all 4 x 4 weights
    spegm = places * d * d * 16 + 4 * places * (9 * d * parts + parts * d) + parts * d * dp
    to_parts = parts * d * dp
    sim = parts * (dp * dp // 4 + dp // 4 * 2 * dp)
    attention = parts * (4 * dp * dp + 2 * parts * dp) + parts * 2 * dp * feedforward
    heads = 2 * keypoints * 2 * dp
    keypoint_stage = n * (region + tower + step_2 + spegm + to_parts + sim + attention + heads)
    assert operations["decoder.keypoint_stages"] == 2 * keypoint_stage

    assert operations["decoder"] == operations[""] - operations["backbone"] == 2 * (box_stage + keypoint_stage)
    assert operations["decoder.box_stages.1"] == box_stage
    allocated = build_model(tiny_config(variant))
    assert [p.shape for p in model.parameters()] == [p.shape for p in allocated.parameters()]


def test_modules_of_the_backbone_against_fvcore_s_counter():
    cfg = tiny_config("full", "MODEL.COMPILE", "default")
    _, ours = count_operations(cfg, 64, 96)
    theirs = FlopCountAnalysis(build_backbone(cfg).eval(), (torch.zeros(1, 3, 64, 96),)).by_module_and_operator()
    # Detectron2's counter wraps what it counts as "model"
    convolutions = {name.removeprefix("model"): kinds["conv"] for name, kinds in theirs.items() if kinds.get("conv")}
    assert len(convolutions) > 20
    for name, number in convolutions.items():
        assert ours["backbone" + name] == number, name


def test_a_stage_without_parts_is_counted():
    cfg = tiny_config("light", "MODEL.QUERYPOSE.KEYPOINT_STAGE", "PooledKeypointStage")
    assert count_operations(cfg, 64, 96)[1]["decoder.keypoint_stages"] > 0


def test_lines_of_the_table(capsys):
    config, opts = str(ROOT / "configs/quickstart.yaml"), ["MODEL.QUERYPOSE.NUM_QUERIES", "4"]
    load_tool("analyze_model").main(["--config-file", config, "--depth", "2", "--size", "161", "192", *opts])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.endswith("one image of 192 x 192 pixels")
    cfg = setup_config(config, opts)
    model, operations = count_operations(cfg, 192, 192)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    wanted = [f"{parameters / 1e6:.1f}", "M", "100.0", f"{operations[''] / 1e6:.1f}", "M", "100.0"]
    assert lines[2].split()[2:] == wanted and lines[3].startswith("  "), "modules are indented by their depth"
    assert any(line.strip().startswith("criterion") and line.split()[-2:] == ["0", "0.0"] for line in lines)
    deeper = module_table(cfg, 192, 192, depth=3).splitlines()
    assert sum(line.strip().startswith("0 .. ") for line in deeper) >= 2, "stages with the same numbers share a line"
    assert len(module_table(cfg, 192, 192, depth=0).splitlines()) == 3


def test_every_config_has_a_row_with_the_papers_ap():
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    reported = {cells[0].strip("`"): cells[-2] for cells in rows if len(cells) == 10}
    assert list(reported) == make_model_zoo.zoo_configs() and reported["crowdpose/querypose_Swin-L"] == "72.7 (Table 6)"
    for table in load_tables():
        for row in table.rows:
            if row.train and not table.title.startswith("Table 5"):
                name = row.train.removeprefix("configs/").removesuffix(".yaml")
                assert reported[name] == f"{row.paper[0]} ({table.title.partition(':')[0]})"


@pytest.mark.slow
def test_the_page_is_up_to_date():
    page = make_model_zoo.model_zoo_page()
    assert PAGE.read_text() == page and f"{make_model_zoo.HEIGHT}x{make_model_zoo.WIDTH} pixels" in page


def test_results(tmp_path, monkeypatch):
    monkeypatch.setattr(make_model_zoo, "zoo_configs", lambda: ["quickstart", "querypose_small"])
    (tmp_path / "quickstart.json").write_text(json.dumps({"keypoints": {"AP": 12.34}}))
    (tmp_path / "querypose_small.json").write_text(json.dumps({"bbox": {"AP": 12.34}}))
    quickstart, small = make_model_zoo.model_zoo_page(tmp_path).partition("|---|\n")[2].splitlines()[:2]
    assert quickstart.endswith("| 12.3 |") and "[below]" in small
