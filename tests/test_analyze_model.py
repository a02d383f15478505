"""The tree of modules: its sums are the model's, its parts fvcore's, and its lines say so."""

import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.analysis import FlopCountAnalysis
from tiny_model import tiny_config

from querypose.analysis.flops import count_cost
from querypose.analysis.module_tree import ModuleCost, format_tree, module_costs
from querypose.errors import UserError
from querypose.setup_config import setup_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("analyze_model", ROOT / "tools" / "analyze_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def child(cost, path):
    for name in path.split("."):
        (cost,) = [inner for inner in cost.children if inner.name == name]
    return cost


@pytest.mark.parametrize(
    "options",
    [
        ("full", "MODEL.COMPILE", "default"),
        ("full", "MODEL.QUERYPOSE.PART_EMBEDDING", "PartSelfAttention"),
        ("light", "MODEL.QUERYPOSE.KEYPOINT_STAGE", "PooledKeypointStage"),
    ],
)
def test_sums_are_those_of_the_model(options):
    cfg = tiny_config(*options)
    costs, whole = module_costs(cfg, 64, 96), count_cost(cfg, 64, 96)
    assert (costs.parameters, costs.operations) == (whole.parameters, whole.total)
    assert child(costs, "backbone").operations == whole.backbone
    assert child(costs, "decoder.box_stages").operations == whole.box_stages
    assert child(costs, "decoder.keypoint_stages").operations == whole.keypoint_stages
    assert child(costs, "criterion").operations == 0 < child(costs, "criterion").parameters


def test_a_module_holds_what_its_children_do():
    model = build_model(tiny_config())
    modules = dict(model.named_modules())

    def check(cost, path):
        assert cost.kind == type(modules[path]).__name__
        assert cost.parameters == sum(parameter.numel() for parameter in modules[path].parameters())
        assert cost.operations >= sum(inner.operations for inner in cost.children)
        for inner in cost.children:
            check(inner, f"{path}.{inner.name}".lstrip("."))

    check(module_costs(tiny_config(), 64, 96), "")


def test_a_keypoint_stage_by_itself_reads_its_regions():
    stage = child(module_costs(tiny_config("light"), 64, 96), "decoder.keypoint_stages.0")
    # 6 queries, 16 channels, 6 x 6 places, each of 2 x 2 points between 2 x 2 positions
    assert stage.operations - sum(inner.operations for inner in stage.children) == 6 * 16 * 36 * 16


def test_modules_of_the_backbone_against_fvcore_s_counter():
    cfg = tiny_config()
    backbone = child(module_costs(cfg, 64, 96), "backbone")
    theirs = FlopCountAnalysis(build_backbone(cfg).eval(), (torch.zeros(1, 3, 64, 96),)).by_module_and_operator()
    # Detectron2's counter wraps what it counts as "model"
    convolutions = {name: kinds["conv"] for name, kinds in theirs.items() if name and kinds.get("conv")}
    assert len(convolutions) > 20
    for name, number in convolutions.items():
        module = child(backbone, name.removeprefix("model.")) if name != "model" else backbone
        assert module.operations == number, name


def test_lines_of_the_tree():
    norm = ModuleCost("norm", "LayerNorm", 0, 0, ())
    block = [ModuleCost(str(index), "Block", 40, 1_000_000, (norm,)) for index in range(3)]
    odd = ModuleCost("3", "Block", 80, 1_000_000, ())
    stages = ModuleCost("stages", "ModuleList", 200, 4_000_000, (*block, odd))
    head = ModuleCost("head", "Linear", 800, 0, ())
    root = ModuleCost("", "Model", 1000, 4_000_000, (stages, norm, head))
    lines = format_tree(root, depth=2).splitlines()
    names = ["module", "model", "├─ stages", "│  ├─ 0 .. 2", "│  └─ 3", "└─ head"]
    assert [line[: len("│  ├─ 0 .. 2")].rstrip() for line in lines] == names
    assert lines[3].split() == ["│", "├─", "0", "..", "2", "Block", "40", "4.0", "1.0", "M", "25.0"]
    assert lines[1].split() == ["model", "Model", "1.0", "k", "100.0", "4.0", "M", "100.0"]
    assert len(format_tree(root, depth=1).splitlines()) == 4 and len(format_tree(root, depth=0).splitlines()) == 2


def test_tool(tool, capsys):
    config = str(ROOT / "configs/quickstart.yaml")
    tool.main(["--config-file", config, "--depth", "1", "--size", "161", "192", "MODEL.QUERYPOSE.NUM_QUERIES", "4"])
    title, _, model, *parts = capsys.readouterr().out.splitlines()
    whole = count_cost(setup_config(config, ["MODEL.QUERYPOSE.NUM_QUERIES", "4"]), 192, 192)
    assert title.endswith("one image of 192 x 192 pixels") and len(parts) == 3
    assert model.split()[2:7:3] == [f"{whole.parameters / 1e6:.1f}", f"{whole.total / 1e6:.1f}"]


def test_mistakes(tool, capsys):
    with pytest.raises(UserError, match="the config file 'none.yaml' does not exist"):
        tool.main(["--config-file", "none.yaml"])
    for arguments, reason in ((["--depth", "-1"], "--depth must be 0"), (["--size", "0", "9"], "--size needs")):
        with pytest.raises(SystemExit) as stopped:
            tool.main(["--config-file", "none.yaml", *arguments])
        assert stopped.value.code == 2 and reason in capsys.readouterr().err
