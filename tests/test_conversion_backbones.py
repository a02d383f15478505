"""Public checkpoints of HRNet, Swin and torchvision's ResNets become the backbone's weights, tensor by tensor."""

import functools
import re

import pytest
import timm
import torch
import torchvision
from detectron2.modeling import build_backbone
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.swin_transformer import SwinTransformer

from querypose.conversion import CONVERTERS
from querypose.conversion.backbones import (
    convert_hrnet_checkpoint,
    convert_swin_checkpoint,
    convert_torchvision_checkpoint,
    to_torchvision,
)
from querypose.conversion.layout import BOTTOM_UP, CONFIG_FOLDER
from querypose.errors import UserError
from querypose.setup_config import setup_config

# a pose-HRNet makes only the finest map in its last module
COARSE = r"stage4\.2\.fuse_layers\.[123]\..+"
CLASSIFIER = r"(?:incre_modules|downsamp_modules|final_layer|classifier)\..+"
POSE_HEAD = {"final_layer.weight": (17, 32, 1, 1), "final_layer.bias": (17,)}


@functools.cache
def imagenet_hrnet(width):
    """Names and shapes of the original ImageNet classifier, which are timm's."""
    with torch.device("meta"):
        model = timm.create_model(f"hrnet_w{width}")
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def original_hrnet(width, all_outputs):
    """Those of its trunk; without `all_outputs` the trunk of a pose-HRNet."""
    left_out = CLASSIFIER if all_outputs else f"{CLASSIFIER}|{COARSE}"
    return {name: shape for name, shape in imagenet_hrnet(width).items() if not re.fullmatch(left_out, name)}


def tensors_of(shapes):
    """Tensors of these shapes that take no space, each of a number of its own."""
    return {name: torch.tensor(float(index)).expand(shape) for index, (name, shape) in enumerate(shapes.items())}


def test_hrnet_classifier(save):
    # PyTorch before 0.4.1 saved no counters
    whole = {name: t for name, t in tensors_of(imagenet_hrnet(32)).items() if not name.endswith("num_batches_tracked")}
    conversion = convert_hrnet_checkpoint(save(whole))
    assert conversion.config == "querypose_HRNet-W32.yaml"
    assert not conversion.overrides and not conversion.fresh
    trunk = {name: tensor for name, tensor in whole.items() if name in original_hrnet(32, all_outputs=True)}
    ours = {name.removeprefix(BOTTOM_UP): tensor for name, tensor in conversion.state_dict.items()}
    assert ours.keys() == trunk.keys() and all(torch.equal(ours[name], tensor) for name, tensor in trunk.items())
    dropped = [name for names in conversion.dropped.values() for name in names]
    assert sorted(dropped) == sorted(whole.keys() - trunk.keys())


def test_pose_hrnet_lacks_the_coarse_outputs_of_its_last_module(save):
    trunk, complete = original_hrnet(48, all_outputs=False), original_hrnet(48, all_outputs=True)
    tensors = tensors_of(trunk | POSE_HEAD)
    conversion = convert_hrnet_checkpoint(save({"state_dict": {f"module.{n}": t for n, t in tensors.items()}}))
    assert conversion.config == "querypose_HRNet-W48.yaml" and not conversion.overrides
    coarse = [name for name in complete if name not in trunk and not name.endswith("num_batches_tracked")]
    assert list(conversion.fresh.values()) == [[BOTTOM_UP + name for name in coarse]]
    assert list(conversion.dropped.values()) == [list(POSE_HEAD)]
    assert conversion.state_dict.keys() == {BOTTOM_UP + name for name in trunk}
    assert all(torch.equal(conversion.state_dict[BOTTOM_UP + name], tensors[name]) for name in trunk)


SWIN_HEAD = {"norm.weight": (2,), "norm.bias": (2,), "head.weight": (3, 2), "head.bias": (3,)}


def original_swin(size="tiny", window=7):
    """Names and shapes of an original Swin without head and buffers: timm's, which downsamples a stage later."""
    with torch.device("meta"):
        model = timm.create_model(f"swin_{size}_patch4_window7_224", img_size=32 * window, window_size=window)
    trunk = {name: tensor.shape for name, tensor in model.state_dict().items() if not re.match(r"norm|head", name)}
    earlier = {f"layers.{stage}.downsample": f"layers.{stage - 1}.downsample" for stage in (1, 2, 3)}
    return {earlier.get(name[:19], name[:19]) + name[19:]: tuple(shape) for name, shape in trunk.items()}


def test_names_of_swin():
    pairs = {
        "patch_embed.norm.bias": "features.0.2.bias",
        "layers.0.blocks.1.norm1.weight": "features.1.1.norm1.weight",
        "layers.2.blocks.17.mlp.fc2.bias": "features.5.17.mlp.3.bias",
        "layers.2.downsample.norm.weight": "features.6.norm.weight",
        # a ResNet's and an HRNet's names mean themselves
        **{name: name for name in ("norm3.weight", "layer1.0.conv1.weight", "stage2.0.branches.0.0.bn1.weight")},
    }
    assert {name: to_torchvision(name) for name in pairs} == pairs


@pytest.mark.parametrize(("size", "dim", "depth"), [("tiny", 96, 6), ("small", 96, 18), ("base", 128, 18)])
def test_swin_classifier(save, size, dim, depth):
    tensors, head = tensors_of(original_swin(size)), tensors_of(SWIN_HEAD)
    buffers = {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
    }
    conversion = convert_swin_checkpoint(save({"model": {**tensors, **head, **buffers}}))
    assert conversion.config == f"querypose_Swin-{size[0].upper()}.yaml"
    assert not conversion.overrides and not conversion.interpolated
    assert list(conversion.dropped.values()) == [list(head), *([name] for name in buffers)]
    (fresh,) = conversion.fresh.values()
    assert fresh == [f"{BOTTOM_UP}norm{stage}.{kind}" for stage in range(4) for kind in ("weight", "bias")]

    with torch.device("meta"):
        model = SwinTransformer([4, 4], dim, [2, 2, depth, 2], [dim * 2**i // 32 for i in range(4)], [7, 7])
    wanted = {name: tensor.shape for name, tensor in model.features.state_dict(prefix="features.").items()}
    ours = {name.removeprefix(BOTTOM_UP): tensor for name, tensor in conversion.state_dict.items()}
    assert {name: tensor.shape for name, tensor in ours.items()} == wanted
    for name, tensor in tensors.items():
        assert torch.equal(ours[to_torchvision(name)], tensor), name
    index = ours["features.5.1.attn.relative_position_index"].view(49, 49)
    # rows and columns of two locations differ by -6 .. 6: the first and the last location, and one with itself
    assert index[0, 48] == 0 and index[48, 0] == 168 and (index.diagonal() == 84).all()


def test_swin_detector_brings_its_output_norms(save):
    norms = {f"norm{stage}.{kind}": (96 * 2**stage,) for stage in range(4) for kind in ("weight", "bias")}
    tensors = tensors_of(original_swin() | norms)
    others = tensors_of({"neck.lateral_convs.0.conv.weight": (2,), "rpn_head.rpn_cls.bias": (3,)})
    content = {f"backbone.{name}": tensor for name, tensor in tensors.items()} | others
    conversion = convert_swin_checkpoint(save({"state_dict": content, "meta": {}}))
    assert not conversion.fresh
    assert torch.equal(conversion.state_dict[BOTTOM_UP + "norm2.bias"], tensors["norm2.bias"])
    assert [name for names in conversion.dropped.values() for name in names] == list(others)


def test_swin_s_tables_of_another_window_are_interpolated(save):
    tensors = tensors_of(original_swin(window=12))
    name = "layers.1.blocks.1.attn.relative_position_bias_table"
    tensors[name] = torch.randn(23 * 23, 6)
    conversion = convert_swin_checkpoint(save({"model": tensors}))
    assert conversion.config == "querypose_Swin-T.yaml" and not conversion.overrides
    (resized,) = conversion.interpolated.values()
    assert len(resized) == 12
    square = tensors[name].T.view(1, 6, 23, 23)
    expected = torch.nn.functional.interpolate(square, size=13, mode="bicubic").flatten(2)[0].T
    ours = conversion.state_dict[BOTTOM_UP + "features.3.1.attn.relative_position_bias_table"]
    assert torch.allclose(ours, expected, atol=1e-5)


@torch.no_grad()
def test_torchvision_s_resnet_computes_the_same(save):
    config = "querypose_R101.yaml"
    theirs = torchvision.models.resnet101(weights=None).eval()
    for name, tensor in theirs.state_dict().items():  # norms that do something
        if name.endswith(("running_mean", "bn1.bias", "bn2.bias")):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    conversion = convert_torchvision_checkpoint(save(theirs.state_dict()))
    assert conversion.config == config and not conversion.overrides
    assert sum(map(len, conversion.dropped.values())) == 2 + sum("num_batches" in name for name in theirs.state_dict())

    backbone = build_backbone(setup_config(str(CONFIG_FOLDER / config), ["MODEL.DEVICE", "cpu"])).eval()
    ours = {name.removeprefix(BOTTOM_UP): tensor for name, tensor in conversion.state_dict.items()}
    backbone.bottom_up.load_state_dict(ours, strict=True)
    image = torch.randn(1, 3, 96, 128)
    layers = {f"layer{number}": f"res{number + 1}" for number in range(1, 5)}
    expected = IntermediateLayerGetter(theirs, layers)(image)
    features = backbone.bottom_up(image)
    for name, feature in expected.items():
        assert feature.std() > 0.01
        torch.testing.assert_close(features[name], feature, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "name", "shape", "words"),
    [
        ("hrnet", "stage4.1.fuse_layers.2.0.0.0.weight", None, r"1 missing \(.*stage4.1.fuse_layers.2.0"),
        ("hrnet", "transition1.0.0.weight", None, "does not match HRNet: it lacks transition1.0.0.weight"),
        ("hrnet", "transition1.0.0.weight", (20, 256, 3, 3), "timm cannot build"),
        ("swin", "layers.0.blocks.0.attn.logit_scale", (3, 1, 1), r"1 unexpected \(backbone.*attn.logit_scale\)"),
        ("swin", "layers.0.blocks.0.attn.relative_position_bias_table", (169, 4), r"1 misshapen \(.*bias_table \(169"),
        ("swin", "patch_embed.proj.weight", None, "does not match Swin as Microsoft publishes it: it lacks patch"),
        ("torchvision", "layer3.0.conv3.weight", None, "of torchvision: it lacks layer3.0.conv3.weight"),
        ("torchvision", "layer3.7.conv1.weight", (1,), r"1 unexpected \(backbone\.bottom_up\.res4\.7\.conv1"),
    ],
)
def test_damaged_and_foreign_files_are_refused(save, source, name, shape, words):
    if source == "torchvision":
        with torch.device("meta"):
            model = torchvision.models.resnet50(weights=None)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    else:
        shapes = original_swin() if source == "swin" else original_hrnet(32, all_outputs=True)
    shapes = {other: tuple(shape) for other, shape in shapes.items() if other != name}
    with pytest.raises(UserError, match=words):
        CONVERTERS[source](save(tensors_of(shapes if shape is None else {name: shape, **shapes})))
