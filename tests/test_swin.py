"""Swin against timm's, which keeps the original's code; the four output norms are the detectors'."""

import re

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from tiny_model import tiny_config
from torch import nn

from querypose.config_checks import check_config
from querypose.errors import UserError
from querypose.modeling.backbones.swin import SwinBackbone

TINY = {"embed_dim": 8, "depths": [2, 3, 2, 2], "num_heads": [1, 2, 4, 8]}


def random_swin(**options):
    """Weights that make every term count: torchvision starts biases and position tables near zero."""
    backbone = SwinBackbone(**(TINY | options)).double().eval()
    for name, parameter in backbone.named_parameters():
        if "relative_position_bias_table" in name:
            nn.init.normal_(parameter, std=1.0)
        elif parameter.dim() == 1:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3)
        else:
            nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    return backbone


def in_timm(name):
    """timm's name of a tensor; it downsamples at the beginning of a stage."""
    name = name.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
    name = name.replace("features.0.0.", "patch_embed.proj.").replace("features.0.2.", "patch_embed.norm.")
    name = re.sub(r"features\.([1357])\.", lambda match: f"layers_{int(match[1]) // 2}.blocks.", name)
    return re.sub(r"features\.([246])\.", lambda match: f"layers_{int(match[1]) // 2}.downsample.", name)


@pytest.mark.parametrize(("height", "width"), [(128, 192), (125, 190)])  # the latter is padded to the former
@torch.no_grad()
def test_the_original_formulation(height, width):
    ours = random_swin(window_size=2)
    options = {"embed_dim": 8, "depths": (2, 3, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": 2}
    theirs = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, img_size=(128, 192), **options)
    state = {in_timm(name): tensor for name, tensor in ours.state_dict().items() if not name.endswith("position_index")}
    missing, unexpected = theirs.double().eval().load_state_dict(state, strict=False)
    assert not missing and set(unexpected) == {f"norm{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
    image = torch.randn(2, 3, height, width, dtype=torch.float64)
    expected = theirs(nn.functional.pad(image, (0, -width % 4, 0, -height % 4)))
    for index, (feature, other) in enumerate(zip(ours(image).values(), expected, strict=True)):
        other = ours.get_submodule(f"norm{index}")(other)
        torch.testing.assert_close(feature.permute(0, 2, 3, 1), other)


@torch.no_grad()
def test_windows_and_shifts_of_a_padded_map():
    # timm shifts before it pads, the original pads first: given the padded map, timm's block does as the original
    ours = random_swin(window_size=3).features[1][1].attn
    theirs = SwinTransformerBlock(8, (9, 12), num_heads=1, window_size=3, shift_size=1).double()
    theirs.attn.load_state_dict(ours.state_dict(), strict=False)
    x = torch.randn(2, 7, 10, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs._attn(nn.functional.pad(x, (0, 0, 0, 2, 0, 2)))[:, :7, :10])


def test_stages_behind_the_last_feature_are_not_built():
    backbone = SwinBackbone(**TINY, window_size=3, out_features=("res3", "res4"))
    features = backbone(torch.randn(1, 3, 64, 96))
    assert {key: tuple(value.shape[1:]) for key, value in features.items()} == {"res3": (16, 8, 12), "res4": (32, 4, 6)}
    sum(feature.square().mean() for feature in features.values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_stochastic_depth_rises_with_depth_and_rests_in_inference():
    backbone = SwinBackbone(**TINY, window_size=3, stochastic_depth=0.4)
    rates = [block.stochastic_depth.p for stage in backbone.features[1::2] for block in stage]
    assert rates == pytest.approx([0.4 * index / 8 for index in range(9)])
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        runs = [backbone.train(training)(image)["res5"] for training in (True, True, False, False)]
    assert not torch.equal(runs[0], runs[1])
    assert torch.equal(runs[2], runs[3])


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("DEPTHS", [2, 2, 6], "needs 4 DEPTHS, 4 NUM_HEADS"),
        ("DEPTHS", [2, 0, 6, 2], "all of at least 1"),
        ("NUM_HEADS", [1, 2, 4, 5], "NUM_HEADS must divide the channels, EMBED_DIM 8 times"),
        ("WINDOW_SIZE", 1, "WINDOW_SIZE is 1; it must be at least 2"),
        ("STOCHASTIC_DEPTH", 1.0, "STOCHASTIC_DEPTH is 1.0; .* at least 0 and below 1"),
    ],
)
def test_values_that_cannot_be(key, value, reason):
    cfg = tiny_config("light", "MODEL.BACKBONE.NAME", "build_swin_fpn_backbone")
    cfg.MODEL.SWIN.update({"EMBED_DIM": 8, "NUM_HEADS": [1, 2, 4, 8], key: value})
    with pytest.raises(UserError, match=f"MODEL.SWIN.*{reason}"):
        check_config(cfg)
