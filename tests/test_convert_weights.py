"""tools/convert_weights.py from a backbone's or our own checkpoint to a model with its numbers."""

import pytest
import torch
from refusals import ROOT, tool
from safetensors.torch import load_file
from test_conversion_backbones import POSE_HEAD, original_hrnet, original_swin, tensors_of
from tiny_model import tiny_model

from querypose.conversion import backbone_of
from querypose.errors import UserError
from querypose.predictor import load_weights


def test_backbones(tmp_path, capsys):
    sources = {
        "hrnet": tensors_of(original_hrnet(48, all_outputs=False) | POSE_HEAD),
        "swin": {"model": tensors_of(original_swin("large", window=12))},
    }
    printed = {}
    for source, content in sources.items():
        torch.save(content, tmp_path / f"{source}.pth")
        target = tmp_path / f"{source}_ours.pth"
        tool("convert_weights", "--source", source, tmp_path / f"{source}.pth", target)()
        printed[source] = capsys.readouterr().out
        assert all(name.startswith("backbone.bottom_up.") for name in torch.load(target)["model"])
        assert "all of the neck and the decoder" in printed[source]
    assert (
        "left out 2 tensors: the head, which is not part of the backbone (final_layer.weight, ..)" in printed["hrnet"]
    )
    assert "randomly initialized 78 tensors: the coarser outputs" in printed["hrnet"]
    assert "config: configs/querypose_HRNet-W48.yaml or configs/querypose_light_HRNet-W48.yaml" in printed["hrnet"]
    assert "interpolated 24 relative position tables from window 12 to 7" in printed["swin"]
    assert "config: configs/querypose_Swin-L.yaml\noverrides: none" in printed["swin"]


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
