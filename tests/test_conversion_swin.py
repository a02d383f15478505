"""Original Swin files become the backbone's weights, tensor by tensor."""

import re

import pytest
import timm
import torch
from test_conversion_hrnet import tensors_of
from torchvision.models.swin_transformer import SwinTransformer

from querypose.conversion.backbones import convert_swin_checkpoint, to_torchvision, window_of
from querypose.errors import UserError

PREFIX = "backbone.bottom_up."
HEAD = {"norm.weight": (2,), "norm.bias": (2,), "head.weight": (3, 2), "head.bias": (3,)}


def original_swin(size="tiny", window=7):
    """Names and shapes of an original Swin without head and buffers: timm's, which downsamples a stage later."""
    with torch.device("meta"):
        model = timm.create_model(f"swin_{size}_patch4_window7_224", img_size=32 * window, window_size=window)
    trunk = {name: tensor.shape for name, tensor in model.state_dict().items() if not re.match(r"norm|head", name)}
    earlier = {f"layers.{stage}.downsample": f"layers.{stage - 1}.downsample" for stage in (1, 2, 3)}
    return {earlier.get(name[:19], name[:19]) + name[19:]: tuple(shape) for name, shape in trunk.items()}


def test_names():
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
def test_classifier_checkpoint(save, size, dim, depth):
    tensors, head = tensors_of(original_swin(size)), tensors_of(HEAD)
    buffers = {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
    }
    conversion = convert_swin_checkpoint(save({"model": {**tensors, **head, **buffers}}))
    assert conversion.configs[0] == f"querypose_Swin-{size[0].upper()}.yaml"
    assert not conversion.overrides and not conversion.notes
    assert list(conversion.dropped.values()) == [list(head), *([name] for name in buffers)]
    (fresh,) = conversion.fresh.values()
    assert fresh == [f"{PREFIX}norm{stage}.{kind}" for stage in range(4) for kind in ("weight", "bias")]

    with torch.device("meta"):
        model = SwinTransformer([4, 4], dim, [2, 2, depth, 2], [dim * 2**i // 32 for i in range(4)], [7, 7])
    wanted = {name: tensor.shape for name, tensor in model.features.state_dict(prefix="features.").items()}
    ours = {name.removeprefix(PREFIX): tensor for name, tensor in conversion.state_dict.items()}
    assert {name: tensor.shape for name, tensor in ours.items()} == wanted
    for name, tensor in tensors.items():
        assert torch.equal(ours[to_torchvision(name)], tensor), name
    index = ours["features.5.1.attn.relative_position_index"].view(49, 49)
    # rows and columns of two locations differ by -6 .. 6: the first and the last location, and one with itself
    assert index[0, 48] == 0 and index[48, 0] == 168 and (index.diagonal() == 84).all()


def test_detector_checkpoint_brings_its_output_norms(save):
    norms = {f"norm{stage}.{kind}": (96 * 2**stage,) for stage in range(4) for kind in ("weight", "bias")}
    tensors = tensors_of(original_swin() | norms)
    others = tensors_of({"neck.lateral_convs.0.conv.weight": (2,), "rpn_head.rpn_cls.bias": (3,)})
    content = {f"backbone.{name}": tensor for name, tensor in tensors.items()} | others
    conversion = convert_swin_checkpoint(save({"state_dict": content, "meta": {}}))
    assert not conversion.fresh
    assert torch.equal(conversion.state_dict[PREFIX + "norm2.bias"], tensors["norm2.bias"])
    assert [name for names in conversion.dropped.values() for name in names] == list(others)


def test_tables_of_another_window_are_interpolated(save):
    tensors = tensors_of(original_swin(window=12))
    name = "layers.1.blocks.1.attn.relative_position_bias_table"
    tensors[name] = torch.randn(23 * 23, 6)
    conversion = convert_swin_checkpoint(save({"model": tensors}))
    assert conversion.configs[0] == "querypose_Swin-T.yaml" and not conversion.overrides
    assert conversion.notes == ["interpolated 12 relative position tables from window 12 to 7"]
    square = tensors[name].T.view(1, 6, 23, 23)
    expected = torch.nn.functional.interpolate(square, size=13, mode="bicubic").flatten(2)[0].T
    ours = conversion.state_dict[PREFIX + "features.3.1.attn.relative_position_bias_table"]
    assert torch.allclose(ours, expected, atol=1e-5)


def test_foreign_files_are_refused(save):
    shapes, table = original_swin(), "layers.3.blocks.1.attn.relative_position_bias_table"
    for others, words in (
        ({**shapes, "layers.0.blocks.0.attn.logit_scale": (3, 1, 1)}, r"1 unexpected \(backbone.*attn.logit_scale\)"),
        (
            {name: shape for name, shape in shapes.items() if "3.blocks.1.norm2.b" not in name},
            r"1 missing \(.*7.1.norm2",
        ),
        (
            {table: (7,), **{name: shape for name, shape in shapes.items() if name != table}},
            "1 dimensions instead of 2",
        ),
        ({**original_swin(window=12), table: (7,)}, r"1 misshapen \(backbone.bottom_up.features.7.1.attn"),
        ({"layers.0.blocks.0.norm1.weight": (1,)}, "does not match Swin in the original naming: it lacks patch"),
    ):
        with pytest.raises(UserError, match=words):
            convert_swin_checkpoint(save(tensors_of(others)))
    for rows in (168, 144):
        with pytest.raises(UserError, match=f"{rows} rows belongs to no square window"):
            window_of(rows)
