"""Original Swin files become the backbone's weights, tensor by tensor; the original naming is written out here."""

import pytest
import torch
from test_conversion_hrnet import tensors_of
from torchvision.models.swin_transformer import SwinTransformer

from querypose.conversion.backbones import convert_swin_checkpoint, to_torchvision, window_of
from querypose.errors import UserError

PREFIX = "backbone.bottom_up."


def linear(name, rows, columns, bias=True):
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def original_swin(dim, window=7, depths=(2, 2, 18, 2), output_norms=False):
    """Names and shapes of an original Swin without head and buffers; heads of 32 channels."""
    shapes = {"patch_embed.proj.weight": (dim, 3, 4, 4), "patch_embed.proj.bias": (dim,)}
    shapes |= norm("patch_embed.norm", dim)
    for stage, depth in enumerate(depths):
        width = dim * 2**stage
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            shapes |= norm(f"{name}.norm1", width) | norm(f"{name}.norm2", width)
            shapes |= {f"{name}.attn.relative_position_bias_table": ((2 * window - 1) ** 2, width // 32)}
            shapes |= linear(f"{name}.attn.qkv", 3 * width, width) | linear(f"{name}.attn.proj", width, width)
            shapes |= linear(f"{name}.mlp.fc1", 4 * width, width) | linear(f"{name}.mlp.fc2", width, 4 * width)
        if stage < len(depths) - 1:
            shapes |= linear(f"layers.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
            shapes |= norm(f"layers.{stage}.downsample.norm", 4 * width)
        if output_norms:
            shapes |= norm(f"norm{stage}", width)
    return shapes


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


@pytest.mark.parametrize(("dim", "size", "depth"), [(96, "T", 6), (96, "S", 18), (128, "B", 18), (192, "L", 18)])
def test_classifier_checkpoint(save, dim, size, depth):
    depths = (2, 2, depth, 2)
    tensors = tensors_of(original_swin(dim, depths=depths))
    head = tensors_of(norm("norm", 8 * dim) | linear("head", 1000, 8 * dim))
    buffers = {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
    }
    conversion = convert_swin_checkpoint(save({"model": {**tensors, **head, **buffers}}))
    assert conversion.configs[0] == f"querypose_Swin-{size}.yaml" and not conversion.overrides and not conversion.notes
    assert list(conversion.dropped.values()) == [list(head), *([name] for name in buffers)]
    (fresh,) = conversion.fresh.values()
    assert fresh == [f"{PREFIX}norm{stage}.{kind}" for stage in range(4) for kind in ("weight", "bias")]

    with torch.device("meta"):
        model = SwinTransformer([4, 4], dim, list(depths), [dim * 2**i // 32 for i in range(4)], window_size=[7, 7])
    wanted = {name: tensor.shape for name, tensor in model.features.state_dict(prefix="features.").items()}
    ours = {name.removeprefix(PREFIX): tensor for name, tensor in conversion.state_dict.items()}
    assert {name: tensor.shape for name, tensor in ours.items()} == wanted
    for name, tensor in tensors.items():
        assert torch.equal(ours[to_torchvision(name)], tensor), name
    index = ours["features.5.1.attn.relative_position_index"].view(49, 49)
    # rows and columns of two locations differ by -6 .. 6: the first and the last location, and one with itself
    assert index[0, 48] == 0 and index[48, 0] == 168 and (index.diagonal() == 84).all()


def test_detector_checkpoint_brings_its_output_norms(save):
    tensors = tensors_of(original_swin(96, depths=(2, 2, 6, 2), output_norms=True))
    others = tensors_of({"neck.lateral_convs.0.conv.weight": (2,), "rpn_head.rpn_cls.bias": (3,)})
    content = {f"backbone.{name}": tensor for name, tensor in tensors.items()} | others
    conversion = convert_swin_checkpoint(save({"state_dict": content, "meta": {}}))
    assert not conversion.fresh
    assert torch.equal(conversion.state_dict[PREFIX + "norm2.bias"], tensors["norm2.bias"])
    assert [name for names in conversion.dropped.values() for name in names] == list(others)


def test_tables_of_another_window_are_interpolated(save):
    tensors = tensors_of(original_swin(96, window=12, depths=(2, 2, 6, 2)))
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
    shapes = original_swin(96)
    version_two = {**shapes, "layers.0.blocks.0.attn.logit_scale": (3, 1, 1)}
    del shapes["layers.3.blocks.1.norm2.bias"]
    table = "attn.relative_position_bias_table"
    first, last = f"layers.0.blocks.0.{table}", f"layers.3.blocks.1.{table}"
    for others, words in (
        (version_two, r"1 unexpected \(backbone.bottom_up.features.1.0.attn.logit_scale\)"),
        (shapes, r"1 missing \(backbone.bottom_up.features.7.1.norm2.bias\)"),
        ({**shapes, first: (7,)}, f"{first} has 1 dimensions instead of 2"),
        ({**original_swin(96, window=12), last: (7,)}, r"1 misshapen \(backbone.bottom_up.features.7.1.attn"),
        ({"layers.0.blocks.0.norm1.weight": (1,)}, "does not match Swin in the original naming: it lacks patch"),
    ):
        with pytest.raises(UserError, match=words):
            convert_swin_checkpoint(save(tensors_of(others)))
    for rows in (168, 144):
        with pytest.raises(UserError, match=f"{rows} rows belongs to no square window"):
            window_of(rows)
