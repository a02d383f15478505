"""tools/convert_weights.py recognizes checkpoints by their tensors, of which it loses none, or lists their faults.

That the authors' names are right is for test_parity.py.
"""

import functools
import json
import re

import pytest
import torch
from detectron2.modeling import build_model
from parity import LAYOUTS
from refusals import ROOT, tool
from safetensors.torch import load_file
from test_conversion_backbones import original_swin, tensors_of
from tiny_model import tiny_config, tiny_model

from querypose.conversion import authors, backbone_of
from querypose.conversion.layout import CONFIG_FOLDER, Layout
from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.modeling import build_part_division
from querypose.predictor import load_weights
from querypose.setup_config import setup_config

RESNET = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH": 50}
THIRD_GATE = ".updater."


@functools.cache
def ours(variant):
    """The tensors of our R50, each of a number of its own, and what is stacked from parts of random ones."""
    shapes = {
        name: t.shape for name, t in Layout.closest({**RESNET, "MODEL.QUERYPOSE.VARIANT": variant}).tensors.items()
    }
    stacked = {name: torch.rand(shape) for name, shape in shapes.items() if re.search("heads|instance_to_part", name)}
    return tensors_of(shapes) | stacked


def their_name(name, table):
    for theirs, ours in table.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    raise AssertionError(f"this table lacks {name}")


def as_the_authors_would_save(state_dict):
    """Our state dict in their naming, heads and part layers apart, with the tensors that have no function."""
    part_of_keypoint = build_part_division(skeleton_of(tiny_config()), "rigid")
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


def loaded(cfg, state_dict):
    """The state dict of the config's model after it was loaded strictly, without a second copy in memory."""
    with torch.device("meta"):
        model = build_model(cfg)
    model.load_state_dict(state_dict, strict=True, assign=True)
    return model.state_dict()


@pytest.mark.parametrize("variant", ["light", "full"])
def test_everything_comes_back(save, tmp_path, capsys, variant):
    theirs = as_the_authors_would_save(ours(variant))
    tool("convert_weights", "--source", "authors", save({"model": theirs, "iteration": 7}), tmp_path / "ours.pth")()
    printed = capsys.readouterr().out
    assert "left out 12 tensors: a third gate layer (updater.fc3, updater.norm_fc3) that is never called" in printed
    assert "left out 2 tensors: image statistics" in printed and printed.count("left out") == 2
    assert f"config: configs/querypose_{'light_' * (variant == 'light')}R50.yaml\noverrides: none" in printed

    # what it says to use is a working command line
    use = next(line for line in printed.splitlines() if line.startswith("use: --config-file "))
    file, *opts = use.removeprefix("use: --config-file ").split()
    cfg = setup_config(str(ROOT / file), [*opts, "MODEL.DEVICE", "meta"])
    state_dict = loaded(cfg, torch.load(cfg.MODEL.WEIGHTS)["model"])
    assert state_dict.keys() == ours(variant).keys()
    assert all(torch.equal(state_dict[name], tensor) for name, tensor in ours(variant).items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_the_authors(shared_folder, save, layout):
    record = json.loads((shared_folder / f"parity/keys_{layout}.json").read_text())
    shapes = record.get("state_dict", record)
    conversion = authors.convert_authors_checkpoint(save({"model": tensors_of(shapes), "iteration": 1}))
    assert conversion.config == f"querypose_{LAYOUTS[layout]}.yaml" and not conversion.overrides
    cfg = setup_config(str(CONFIG_FOLDER / conversion.config), ["MODEL.DEVICE", "meta"])
    state_dict = loaded(cfg, conversion.state_dict)
    assert not conversion.fresh

    # nothing but the named tensors is lost, nothing but the computed index is added
    dropped = [key for names in conversion.dropped.values() for key in names]
    assert sum(THIRD_GATE in key for key in dropped) == 3 * cfg.MODEL.QUERYPOSE.NUM_STAGES
    necks = {
        "W32_light": ["backbone.fpn_conv.4.weight", "backbone.fpn_conv.4.bias"],
        "W48_full": ["backbone.lateral_conv.0.weight", "backbone.fpn_conv.4.weight"],
    }
    others = [key for key in dropped if THIRD_GATE not in key and not key.endswith("relative_position_index")]
    assert others == necks.get(layout, [])
    # every number of the file, each of which one tensor has, is found again
    numbers = {float(index) for index, key in enumerate(shapes) if key not in dropped}
    found = {
        float(value)
        for key, tensor in state_dict.items()
        if not key.endswith("position_index")
        for value in (tensor.unique() if ".heads." in key or "instance_to_part" in key else tensor.flatten()[:1])
    }
    assert found == numbers


def test_all_faults_are_listed(save):
    broken = as_the_authors_would_save(ours("light"))
    del broken["head.head_series.1.norm2.weight"]
    del broken["head.pose_head_series.0.fc_coord.3.linear.weight"]
    broken["head.head_series.0.class_logits.weight"] = torch.ones(80, 64)
    broken |= {f"roi_heads.{index}.weight": torch.ones(1) for index in range(22)}
    with pytest.raises(UserError) as error:
        authors.convert_authors_checkpoint(save(broken))
    missing, unexpected, misshapen = str(error.value).split("; ")
    assert "2 missing" in missing and "box_stages.1.interaction_norm.weight" in missing
    assert "keypoint_stages.0.heads.coordinate_weight" in missing
    assert (
        "22 unexpected (roi_heads.0.weight, roi_heads.1.weight, " in unexpected and "19.weight and 2 more" in unexpected
    )
    assert misshapen == "1 misshapen (decoder.box_stages.0.class_logit.weight (80, 64) instead of (1, 256))"
    with pytest.raises(UserError, match="is not the authors' QueryPose: it lacks init_proposal_features.weight"):
        authors.convert_authors_checkpoint(save({"layer1.weight": torch.ones(2)}))


def test_the_closest_config():
    for queries, overrides in ((50, []), (30, ["MODEL.QUERYPOSE.NUM_QUERIES", "30"])):
        layout = Layout.closest({**RESNET, "MODEL.QUERYPOSE.NUM_QUERIES": queries, "MODEL.QUERYPOSE.VARIANT": "full"})
        assert layout.config == f"{'50_queries/' * (not overrides)}querypose_R50.yaml" and layout.overrides == overrides


def test_a_public_backbone(tmp_path, capsys):
    torch.save({"model": tensors_of(original_swin("tiny", window=12))}, tmp_path / "swin.pth")
    tool("convert_weights", "--source", "swin", tmp_path / "swin.pth", tmp_path / "ours.pth")()
    printed = capsys.readouterr().out
    assert all(name.startswith("backbone.bottom_up.") for name in torch.load(tmp_path / "ours.pth")["model"])
    assert "interpolated 12 tensors: relative position tables, to the window of the config" in printed
    assert "randomly initialized 8 tensors: norms of the four outputs" in printed
    assert "all of the neck and the decoder" in printed
    assert "config: configs/querypose_Swin-T.yaml\noverrides: none" in printed


def test_the_backbone_of_the_shipped_weights(tmp_path, capsys, save):
    target = tmp_path / "new" / "backbone.pth"
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
    state = model.to(memory_format=torch.channels_last).state_dict()
    torch.save({"model": state | {"same": next(iter(state.values()))}, "iteration": 7}, tmp_path / "model.pth")
    target = tmp_path / "weights.safetensors"
    tool("convert_weights", "--source", "querypose", tmp_path / "model.pth", target)()
    assert any(name.startswith("criterion.keypoint_loss.flow.") for name in load_file(target)), "fine-tuning needs it"
    load_weights(other, str(target))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().to(tensor.dtype)), name
