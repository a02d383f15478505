"""tools/convert_weights.py from a foreign checkpoint to a model with its numbers."""

import pytest
import torch
from detectron2.modeling import build_model
from refusals import ROOT, tool
from test_conversion import as_the_authors_would_save
from test_conversion_hrnet import POSE_HEAD, original_hrnet, tensors_of
from test_conversion_swin import original_swin
from tiny_model import tiny_config, tiny_model

from querypose.conversion import convert_authors_checkpoint
from querypose.data import skeleton_of
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.errors import UserError
from querypose.modeling import build_part_division
from querypose.predictor import load_weights
from querypose.setup_config import setup_config

# a backbone that the authors have, unlike the tiny model's own
RESNET = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18)
RESNET += ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"])


@pytest.mark.parametrize("division", ["per_keypoint", "joined_head", "rigid", "head_and_limbs"])
def test_the_division_is_found_from_the_file(tmp_path, division):
    model = tiny_model("light", *RESNET, "MODEL.QUERYPOSE.PART_DIVISION", division)
    parts = build_part_division(skeleton_of(tiny_config()), division)
    path = str(tmp_path / "theirs.pth")
    theirs = as_the_authors_would_save(model.state_dict(), parts)
    torch.save({"model": theirs, "iteration": 7}, path)
    conversion = convert_authors_checkpoint(path)
    model.load_state_dict(conversion.state_dict, strict=True)
    overrides = dict(zip(conversion.overrides[::2], conversion.overrides[1::2], strict=True))
    assert overrides.get("MODEL.QUERYPOSE.PART_DIVISION", "rigid") == division

    odd = {name: tensor for name, tensor in theirs.items() if ".fc_coord.0." not in name and ".fc_sigma.0." not in name}
    head = "head.pose_head_series.0.fc_coord.0.linear.weight"
    torch.save({**odd, head: torch.ones(12, 16)}, path)
    with pytest.raises(UserError, match=r"parts of \[6, .*\] keypoints, which is not a part division"):
        convert_authors_checkpoint(path)


@pytest.mark.parametrize("variant", ["light", "full"])
def test_authors(tmp_path, capsys, variant):
    model = tiny_model(variant, *RESNET)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape))
    theirs, ours = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    division = build_part_division(skeleton_of(tiny_config()), "rigid")
    torch.save({"model": as_the_authors_would_save(model.state_dict(), division)}, theirs)
    convert = tool("convert_weights", "--source", "authors", theirs, ours)
    convert()
    printed = capsys.readouterr().out
    assert "left out 4 tensors: a third gate layer (updater.fc3, updater.norm_fc3) that is never called" in printed
    assert f"config: configs/querypose_{'light_' * (variant == 'light')}R50.yaml" in printed
    assert "overrides: MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.FPN.OUT_CHANNELS 16" in printed

    # what it says to use is a working command line
    use = next(line for line in printed.splitlines() if line.startswith("use: --config-file "))
    file, *opts = use.removeprefix("use: --config-file ").split()
    cfg = setup_config(str(ROOT / file), [*opts, "MODEL.DEVICE", "cpu"])
    other = build_model(cfg)
    PoseCheckpointer(other).load(cfg.MODEL.WEIGHTS)
    state_dict = other.state_dict()
    assert state_dict.keys() == model.state_dict().keys()
    assert all(torch.equal(state_dict[name], tensor) for name, tensor in model.state_dict().items())

    # a second run does not write over it
    before = ours.read_bytes()
    with pytest.raises(SystemExit):
        convert()
    assert "exists already" in capsys.readouterr().err
    assert ours.read_bytes() == before


def test_backbones(tmp_path, capsys):
    sources = {
        "hrnet": tensors_of(original_hrnet(48, all_outputs=False) | POSE_HEAD),
        "swin": {"model": tensors_of(original_swin(192, window=12))},
    }
    printed = {}
    for source, content in sources.items():
        torch.save(content, tmp_path / f"{source}.pth")
        target = tmp_path / f"{source}_ours.pth"
        tool("convert_weights", "--source", source, tmp_path / f"{source}.pth", target)()
        printed[source] = capsys.readouterr().out
        assert all(name.startswith("backbone.bottom_up.") for name in torch.load(target)["model"])
        assert "all of the neck and the decoder" in printed[source]
    assert "left out 2 tensors: the head (final_layer): heatmaps or classes" in printed["hrnet"]
    assert "randomly initialized 78 tensors: the three coarser outputs of the last module" in printed["hrnet"]
    assert "config: configs/querypose_HRNet-W48.yaml or configs/querypose_light_HRNet-W48.yaml" in printed["hrnet"]
    assert "interpolated 24 relative position tables from window 12 to 7" in printed["swin"]
    assert "config: configs/querypose_Swin-L.yaml\noverrides: none" in printed["swin"]


def test_the_backbone_of_the_shipped_weights(tmp_path, capsys):
    target = tmp_path / "backbone.pth"
    tool("convert_weights", "--source", "backbone", ROOT / "weights/quickstart.pth", target)()
    printed = capsys.readouterr().out
    assert "what is not of the backbone" in printed and "all of the decoder (these are weights" in printed
    kept = torch.load(target)["model"]
    assert {name.split(".")[1].rstrip("2345") for name in kept} == {"bottom_up", "fpn_lateral", "fpn_output"}
    whole = torch.load(ROOT / "weights/quickstart.pth")["model"]
    assert all(torch.equal(tensor, whole[name].to(tensor.dtype)) for name, tensor in kept.items())


def test_weights_to_pass_on_in_the_safetensors_format(tmp_path):
    model = tiny_model("light")
    torch.save({"model": model.state_dict(), "iteration": 7}, tmp_path / "model_final.pth")
    target = tmp_path / "weights.safetensors"
    tool("convert_weights", "--source", "querypose", tmp_path / "model_final.pth", target)()
    other = tiny_model("light")
    load_weights(other, str(target))
    for name, tensor in other.state_dict().items():
        if not name.startswith("criterion."):
            assert torch.equal(tensor, model.state_dict()[name].half().to(tensor.dtype)), name
