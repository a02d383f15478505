"""tools/convert_weights.py recognizes checkpoints by their tensors, of which it loses none, or lists their faults.

That the authors' names are right is for test_parity.py.
"""

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
from querypose.conversion.layout import CONFIG_FOLDER, closest_configs
from querypose.data import skeleton_of
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.errors import UserError
from querypose.modeling import build_part_division
from querypose.predictor import load_weights
from querypose.setup_config import setup_config

# a backbone that the authors have, unlike the tiny model's own
RESNET = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18)
RESNET += ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"])


THIRD_GATE = ".updater."
MODELS = {
    "tiny_light": "light_R50",
    "tiny_full": "R50",
    **{f"keys_{layout}": config for layout, config in LAYOUTS.items()},
}


def read_shapes(shared_folder, name):
    record = json.loads((shared_folder / f"parity/{name}.json").read_text())
    return record.get("state_dict", record)


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
    tool("convert_weights", "--source", "authors", theirs, ours)()
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


@pytest.mark.parametrize("name", MODELS)
def test_every_layout_of_the_authors(shared_folder, save, name):
    shapes = read_shapes(shared_folder, name)
    conversion = authors.convert_authors_checkpoint(save({"model": tensors_of(shapes), "iteration": 1}))
    config = f"querypose_{MODELS[name]}.yaml"
    assert conversion.configs == [config] and bool(conversion.overrides) == name.startswith("tiny")

    cfg = setup_config(str(CONFIG_FOLDER / config), [*conversion.overrides, "MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    model.load_state_dict(conversion.state_dict, strict=True, assign=True)
    assert not conversion.fresh

    # nothing but the named tensors is lost, nothing but the computed index is added
    dropped = [key for names in conversion.dropped.values() for key in names]
    stages = cfg.MODEL.QUERYPOSE.NUM_STAGES
    assert sum(THIRD_GATE in key for key in dropped) == 3 * stages
    necks = {
        "keys_W32_light": ["backbone.fpn_conv.4.weight", "backbone.fpn_conv.4.bias"],
        "keys_W48_full": ["backbone.lateral_conv.0.weight", "backbone.fpn_conv.4.weight"],
    }
    others = [key for key in dropped if THIRD_GATE not in key and not key.endswith("relative_position_index")]
    assert others == necks.get(name, [])
    # every number of the file, each of which one tensor has, is found again
    numbers = {float(index) for index, key in enumerate(shapes) if key not in dropped}
    found = {
        float(value)
        for key, tensor in conversion.state_dict.items()
        if not key.endswith("position_index")
        for value in (tensor.unique() if ".heads." in key or "instance_to_part" in key else tensor.flatten()[:1])
    }
    assert found == numbers


@pytest.fixture
def tiny():
    return as_the_authors_would_save(tiny_model("light", *RESNET).state_dict(), parts_of("rigid"))


def test_all_faults_are_listed(save, tiny):
    broken = dict(tiny)
    del broken["head.head_series.1.norm2.weight"]
    del broken["backbone.bottom_up.res3.0.conv1.weight"]
    broken["head.head_series.0.class_logits.weight"] = torch.ones(80, 64)
    broken |= {"roi_heads.box.weight": torch.ones(1), "head.other.1": torch.ones(1)}
    with pytest.raises(UserError) as error:
        authors.convert_authors_checkpoint(save(broken))
    missing, unexpected, misshapen = str(error.value).split("; ")
    assert "2 missing" in missing and "box_stages.1.interaction_norm.weight" in missing
    assert "res3.0.conv1.weight" in missing and unexpected == "2 unexpected (roi_heads.box.weight, head.other.1)"
    assert "1 misshapen (decoder.box_stages.0.class_logit.weight (80, 64) instead of (1, 16))" in misshapen


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("head.head_series.2.norm1.weight", (64,), r"\d+ missing \(decoder.box_stages.2.*and \d+ more"),
        ("head.pose_head_series.0.fc_coord.3.linear.weight", None, r"1 missing \(.*_stages.0.heads.coordinate_weight"),
        ("part_query.weight", None, "not complete: it has no tensor part_query.weight"),
        ("backbone.bottom_up.res4.7.conv1.weight", (1,), "neither Detectron2's ResNet nor HRNet nor Swin"),
    ],
)
def test_files_that_are_refused(save, tiny, name, shape, words):
    tiny.pop(name, None)
    with pytest.raises(UserError, match=words):
        authors.convert_authors_checkpoint(save(tiny if shape is None else {**tiny, name: torch.ones(shape)}))


def test_counters_of_batch_norm_may_be_missing(save, tiny):
    del tiny["head.pose_head_series.0.part_embed_generator.upsample.1.num_batches_tracked"]
    found = authors.convert_authors_checkpoint(save(tiny)).state_dict
    prefix = "decoder.keypoint_stages.0.part_embedding.upsample.1"
    assert f"{prefix}.running_mean" in found and f"{prefix}.num_batches_tracked" not in found


def test_another_model_is_refused(save):
    with pytest.raises(UserError, match="is not the authors' QueryPose: it has no keypoint heads"):
        authors.convert_authors_checkpoint(save({"layer1.weight": torch.ones(2)}))


def test_closest_configs():
    resnet = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH": 50}
    assert closest_configs(resnet)[0][0] == "querypose_R50.yaml"
    fifty, overrides = closest_configs({**resnet, "MODEL.QUERYPOSE.NUM_QUERIES": 50, "MODEL.QUERYPOSE.VARIANT": "full"})
    assert fifty == ["50_queries/querypose_R50.yaml"] and not overrides


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
    model.to(memory_format=torch.channels_last)
    torch.save({"model": model.state_dict(), "iteration": 7}, tmp_path / "model_final.pth")
    target = tmp_path / "weights.safetensors"
    tool("convert_weights", "--source", "querypose", tmp_path / "model_final.pth", target)()
    assert not any(name.startswith("criterion.") for name in load_file(target))
    load_weights(other, str(target))
    for name, tensor in other.state_dict().items():
        if not name.startswith("criterion."):
            assert torch.equal(tensor, model.state_dict()[name].half().to(tensor.dtype)), name
