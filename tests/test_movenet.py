"""MoveNet as a backbone: TensorFlow's outputs, its converted file pair, and what is trained of it."""

import json
import math

import numpy as np
import pytest
import torch
from refusals import tool
from tiny_model import tiny_model
from torch import nn
from torch.nn import functional as F

from querypose.conversion.movenet import convert_movenet_file, file_names
from querypose.errors import UserError
from querypose.modeling.backbones.movenet import HalvingConv2d, MoveNetBackbone, separable_conv

MOVENET = ("MODEL.BACKBONE.NAME", "build_movenet_backbone")


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return MoveNetBackbone(out_channels=16)


def test_parity_with_tensorflow(shared_folder):
    conversion = convert_movenet_file(str(shared_folder / "movenet" / "movenet-multipose.json"))
    model = MoveNetBackbone(out_channels=16)
    state_dict = {name.removeprefix("backbone."): tensor for name, tensor in conversion.state_dict.items()}
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    assert not unexpected and all(name.startswith("project.") for name in missing)
    recorded = np.load(shared_folder / "parity" / "movenet_multipose.npz")
    image = torch.from_numpy(recorded["image"]).permute(2, 0, 1)[None] / 127.5 - 1
    maps = model.dense_maps(model.pyramid(image)["p2"])
    names = {"center": "center", "heatmaps": "heatmap", "regression": "regress", "size": "scale"}
    for ours, theirs in {**names, "offset": "box_offset"}.items():
        assert torch.allclose(maps[ours][0].permute(1, 2, 0), torch.from_numpy(recorded[theirs]), rtol=0, atol=1e-3)


def test_the_finest_level_sees_the_maps(backbone):
    """p2's input: 24 channels, 4 sigmoid(center), 4 sigmoid(heatmaps), regression / 10, size / 20."""
    image = torch.randn(1, 3, 64, 64)
    f4 = backbone.pyramid(image)["p2"]
    maps = {name: head(f4) for name, head in backbone.heads.items()}
    joined = [f4, 4 / (1 + (-maps["center"]).exp()), 4 / (1 + (-maps["heatmaps"]).exp())]
    joined = torch.cat([*joined, maps["regression"] / 10, maps["size"] / 20], dim=1)
    conv = backbone.project["p2"]
    expected = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], joined) + conv.bias[:, None, None]
    assert torch.allclose(backbone(image)["p2"], expected, atol=1e-4)


def test_padding_is_tensorflows(backbone):
    convs = [module for module in backbone.trunk.modules() if isinstance(module, nn.Conv2d) and module.stride != (1, 1)]
    assert len(convs) == 5
    for conv in convs:
        x = torch.randn(1, conv.in_channels, 12, 10)
        pads = []
        for size in (10, 12):
            total = max((math.ceil(size / 2) - 1) * 2 + 3 - size, 0)
            pads += [total // 2, total - total // 2]
        expected = F.conv2d(F.pad(x, pads), conv.weight, conv.bias, stride=2, groups=conv.groups)
        assert isinstance(conv, HalvingConv2d) and torch.allclose(conv(x), expected, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_trained(frozen):
    model = tiny_model("light", *MOVENET, "MODEL.MOVENET.FROZEN", frozen).backbone.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outputs = model(torch.randn(1, 3, 64, 64))
    sum(outputs[name].square().mean() for name in model.output_shape()).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = {"project"} if frozen else {"project", "trunk", "lateral", "smooth"}
    assert trained == {name for name in before if name.split(".")[0] in parts}
    # distributed training waits for a gradient of every trainable parameter
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_autocast(backbone):
    image = torch.rand(1, 3, 64, 96) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        halved = backbone(image)
    assert halved["center"].dtype == torch.float32 and halved["p2"].dtype == torch.bfloat16
    for name, tensor in backbone(image).items():
        assert (halved[name] - tensor).abs().max() < 0.05 * tensor.abs().max()


@pytest.mark.slow
def test_onnx(tmp_path):
    from test_onnx_export import assert_same, exported, onnx, run_onnx

    model, file = exported(tmp_path, "light", *MOVENET)
    for height, width in ((64, 96), (70, 101)):
        images = (255 * torch.rand(2, 3, height, width)).round()
        assert_same(model, run_onnx(file, images=images), list(images))
    # padding reads no sizes
    trunk = [node for node in onnx.load(file).graph.node if "/conv_stem/" in node.name or "/conv_dw/" in node.name]
    assert [node.name for node in trunk if node.op_type == "Shape"] == []
    assert sum(node.op_type == "Pad" for node in trunk) == 5


def write_tfjs(folder, arrays):
    """Float arrays as a TensorFlow.js model in half precision, after some integers, in two binary files."""
    entries = [{"name": "index", "shape": [2], "dtype": "int32"}]
    for name, array in arrays.items():
        quantized = {"dtype": "float32", "quantization": {"dtype": "float16"}}
        entries.append({"name": name, "shape": list(array.shape), **quantized})
    data = np.array([7, 8], "<i4").tobytes() + b"".join(array.astype("<f2").tobytes() for array in arrays.values())
    paths = ["one.bin", "two.bin"]
    for path, part in zip(paths, (data[:1001], data[1001:]), strict=True):
        (folder / path).write_bytes(part)
    (folder / "model.json").write_text(json.dumps({"weightsManifest": [{"paths": paths, "weights": entries}]}))
    return folder / "model.json"


def as_published(backbone):
    """The tensors of a backbone of ours, and of the head it lacks, under the file's names in TensorFlow's layout."""
    offset = nn.Sequential(*separable_conv(24, 96), nn.Conv2d(96, 34, 1))
    state_dict = nn.ModuleDict({"backbone": backbone, "keypoint_offset": offset}).state_dict()
    arrays = {}
    for ours, theirs in file_names().items():
        array = state_dict[ours].numpy()
        depthwise = array.ndim == 4 and array.shape[1] == 1 and array.shape[2] == 3
        axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        arrays[theirs] = array.transpose(axes) if array.ndim == 4 else array
    return arrays


def test_the_file_pair_becomes_the_backbone(tmp_path, capsys, backbone):
    file = write_tfjs(tmp_path, as_published(backbone))
    tool("convert_weights", "--source", "movenet", file, tmp_path / "out.pth")()
    printed = capsys.readouterr().out
    assert "left out 5 tensors: the head of the keypoints' offsets" in printed
    assert "randomly initialized 8 tensors: the 1x1 convolutions from the neck to p2 .. p5" in printed
    assert "config: configs/querypose_small.yaml\noverrides: none" in printed
    converted = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    expected = {f"backbone.{name}": t for name, t in backbone.state_dict().items() if not name.startswith("project.")}
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], tensor.half().float()) for name, tensor in expected.items())


def test_bad_files(tmp_path, backbone):
    def refused(path, words):
        with pytest.raises(UserError, match=words):
            convert_movenet_file(str(path))

    refused(tmp_path / "absent.json", "cannot read .*absent.json .No such file")
    for content in ("{", "[]", "{}", '{"weightsManifest": [{"paths": [1], "weights": [{"name": "a"}]}]}'):
        (tmp_path / "odd.json").write_text(content)
        refused(tmp_path / "odd.json", "is no complete TensorFlow.js model")
    arrays = as_published(backbone)
    name = next(name for name in arrays if "kpt_regress_0/conv2d_8/BiasAdd" in name)
    array = arrays.pop(name)
    refused(write_tfjs(tmp_path, arrays), "is not MoveNet MultiPose: it lacks 1 of its 151 weights, first .*regress")
    shorter = {**arrays, name: array[1:]}
    refused(write_tfjs(tmp_path, shorter), r"1 misshapen \(backbone.heads.regression.3.bias \(33,\) instead of \(34,\)")
    file = write_tfjs(tmp_path, {**arrays, name: array})
    (tmp_path / "two.bin").write_bytes(b"123")
    refused(file, "buffer is smaller than requested|offset must be")
    (tmp_path / "two.bin").unlink()
    refused(file, "cannot read .*two.bin .No such file")
