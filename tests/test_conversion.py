"""tools/convert_weights.py loses nothing of a checkpoint; that the authors' names are right is for test_parity.py."""

import re

import pytest
import torch
from detectron2.modeling import build_model
from refusals import ROOT, tool
from safetensors.torch import load_file
from test_conversion_backbones import original_swin, tensors_of
from tiny_model import tiny_config, tiny_model

from querypose.conversion import authors, backbone_of
from querypose.data import skeleton_of
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.errors import UserError
from querypose.modeling import build_part_division
from querypose.predictor import load_weights
from querypose.setup_config import setup_config

# a backbone that the authors have, unlike the tiny model's own
RESNET = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18)
RESNET += ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"])


def their_name(name, table):
    for theirs, ours in table.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    raise AssertionError(f"this table lacks {name}")


def as_the_authors_would_save(state_dict, part_of_keypoint):
    """Our state dict in their naming, heads and part layers apart, with the tensors that have no function."""
    theirs = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    for name, tensor in state_dict.items():
        match = re.fullmatch(r"decoder\.(box|keypoint)_stages\.(\d+)\.(.+)", name)
        if match is None:
            theirs[their_name(name, authors.ELSEWHERE)] = tensor
            continue
        kind, stage, rest = match.groups()
        prefix = f"head.{'pose_' * (kind == 'keypoint')}head_series.{stage}"
        if kind == "keypoint":
            theirs[f"{prefix}.updater.fc3.weight"] = torch.zeros(2, 2)
            theirs[f"{prefix}.updater.norm_fc3.bias"] = torch.zeros(2)
        if head := re.fullmatch(r"heads\.(coord|sigma)\w*_(weight|bias)", rest):
            for part in range(max(part_of_keypoint) + 1):
                mine = [index for index, other in enumerate(part_of_keypoint) if other == part]
                theirs[f"{prefix}.fc_{head[1]}.{part}.linear.{head[2]}"] = tensor[mine].flatten(0, 1)
        elif rest.startswith("instance_to_part."):
            for part, matrix in enumerate(tensor):
                theirs[f"{prefix}.residual_filter.{part}.{rest.split('.')[1]}"] = matrix
        else:
            table = authors.BOX_STAGE if kind == "box" else authors.KEYPOINT_STAGE
            theirs[f"{prefix}.{their_name(rest, table)}"] = tensor
    return theirs


def parts_of(division):
    return build_part_division(skeleton_of(tiny_config()), division)


@pytest.mark.parametrize("variant", ["light", "full"])
def test_everything_comes_back(tmp_path, capsys, variant):
    model = tiny_model(variant, *RESNET)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape))
    theirs, ours = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    torch.save({"model": as_the_authors_would_save(model.state_dict(), parts_of("rigid"))}, theirs)
    convert = tool("convert_weights", "--source", "authors", theirs, ours)
    convert()
    printed = capsys.readouterr().out
    assert "left out 4 tensors: a third gate layer (updater.fc3, updater.norm_fc3) that is never called" in printed
    assert "left out 2 tensors: image statistics" in printed and printed.count("left out") == 2
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


@pytest.mark.parametrize("division", ["per_keypoint", "joined_head", "rigid", "head_and_limbs"])
def test_the_division_is_found_from_the_file(save, division):
    model = tiny_model("light", *RESNET, "MODEL.QUERYPOSE.PART_DIVISION", division)
    theirs = as_the_authors_would_save(model.state_dict(), parts_of(division))
    conversion = authors.convert_authors_checkpoint(save({"model": theirs, "iteration": 7}))
    model.load_state_dict(conversion.state_dict, strict=True)
    overrides = dict(zip(conversion.overrides[::2], conversion.overrides[1::2], strict=True))
    assert overrides.get("MODEL.QUERYPOSE.PART_DIVISION", "rigid") == division

    odd = {name: tensor for name, tensor in theirs.items() if ".fc_coord.0." not in name and ".fc_sigma.0." not in name}
    head = "head.pose_head_series.0.fc_coord.0.linear.weight"
    with pytest.raises(UserError, match=r"parts of \[6, .*\] keypoints, which is not a part division"):
        authors.convert_authors_checkpoint(save({**odd, head: torch.ones(12, 16)}))


def test_a_public_backbone(tmp_path, capsys):
    torch.save({"model": tensors_of(original_swin("tiny", window=12))}, tmp_path / "swin.pth")
    tool("convert_weights", "--source", "swin", tmp_path / "swin.pth", tmp_path / "ours.pth")()
    printed = capsys.readouterr().out
    assert all(name.startswith("backbone.bottom_up.") for name in torch.load(tmp_path / "ours.pth")["model"])
    assert "interpolated 12 relative position tables from window 12 to 7" in printed
    assert "randomly initialized 8 tensors: norms of the four outputs" in printed
    assert "all of the neck and the decoder" in printed
    assert "config: configs/querypose_Swin-T.yaml\noverrides: none" in printed


def test_the_backbone_of_the_shipped_weights(tmp_path, capsys, save):
    target = tmp_path / "backbone.pth"
    tool("convert_weights", "--source", "backbone", ROOT / "weights/quickstart.pth", target)()
    printed = capsys.readouterr().out
    assert "what is not of the backbone" in printed and "all of the decoder (these are weights" in printed
    kept = torch.load(target)["model"]
    assert {name.split(".")[1].rstrip("2345") for name in kept} == {"bottom_up", "fpn_lateral", "fpn_output"}
    whole = torch.load(ROOT / "weights/quickstart.pth")["model"]
    for name, tensor in kept.items():
        wanted = whole[name].float() if whole[name].is_floating_point() else whole[name]
        assert torch.equal(tensor, wanted) and tensor.dtype == wanted.dtype
    with pytest.raises(UserError, match=r"no tensor named backbone\.\*; give a checkpoint or weights of a QueryPose"):
        backbone_of(save({"decoder.b": torch.ones(2)}))


def test_weights_to_pass_on_in_the_safetensors_format(tmp_path):
    model, other = tiny_model("light"), tiny_model("light")
    torch.save({"model": model.state_dict(), "iteration": 7}, tmp_path / "model_final.pth")
    target = tmp_path / "weights.safetensors"
    tool("convert_weights", "--source", "querypose", tmp_path / "model_final.pth", target)()
    assert not any(name.startswith("criterion.") for name in load_file(target))
    load_weights(other, str(target))
    for name, tensor in other.state_dict().items():
        if not name.startswith("criterion."):
            assert torch.equal(tensor, model.state_dict()[name].half().to(tensor.dtype)), name
