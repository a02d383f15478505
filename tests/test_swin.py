"""Swin against the original formulation, written here over all pairs of locations instead of windows."""

import pytest
import torch
from tiny_model import tiny_config
from torch import nn

from querypose.config_checks import check_config
from querypose.errors import UserError
from querypose.modeling.backbones.swin import SwinBackbone

TINY = {"embed_dim": 8, "depths": [2, 3, 2, 2], "num_heads": [1, 2, 4, 8]}


def swin_config(*opts):
    swin = ("MODEL.SWIN.EMBED_DIM", 8, "MODEL.SWIN.DEPTHS", [2, 2, 2, 2], "MODEL.SWIN.NUM_HEADS", [1, 2, 4, 8])
    return tiny_config("light", "MODEL.BACKBONE.NAME", "build_swin_fpn_backbone", *swin, *opts)


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


def layer_norm(x, state, name):
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    result = x @ state[f"{name}.weight"].T
    return result + state[f"{name}.bias"] if f"{name}.bias" in state else result


def attention(x, state, name, heads, window, shift):
    """x (H, W, C), normalized: zeros are appended up to whole windows, then everything moves up and left by `shift`.

    A location attends to those that share its window and did not come around the other edge from it.
    """
    height, width, channels = x.shape
    rows, columns = -(-height // window) * window, -(-width // window) * window
    padded = x.new_zeros(rows, columns, channels)
    padded[:height, :width] = x
    y, x_ = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x_ = y.flatten(), x_.flatten()
    moved_y, moved_x = (y - shift) % rows, (x_ - shift) % columns
    cell = (moved_y // window) * (columns // window) + moved_x // window
    around = (y < shift).long() * 2 + (x_ < shift).long()
    allowed = (cell[:, None] == cell) & (around[:, None] == around)

    width_of_head = channels // heads
    projected = linear(padded.view(-1, channels), state, f"{name}.qkv")
    query, key, value = projected.view(-1, 3, heads, width_of_head).unbind(1)
    logits = torch.einsum("ihd,jhd->hij", query, key) / width_of_head**0.5
    # offsets inside a window, query minus key; elsewhere the value does not matter
    offset_y = (moved_y % window)[:, None] - moved_y % window + window - 1
    offset_x = (moved_x % window)[:, None] - moved_x % window + window - 1
    table = state[f"{name}.relative_position_bias_table"]
    logits = logits + table[offset_y * (2 * window - 1) + offset_x].permute(2, 0, 1)
    weights = logits.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
    result = torch.einsum("hij,jhd->ihd", weights, value).reshape(-1, channels)
    return linear(result, state, f"{name}.proj").view(rows, columns, channels)[:height, :width]


def original_swin(backbone, image, window, shift_small_maps=True):
    """image (3, H, W) -> the features of the four stages, (H, W, C) each."""
    state = backbone.state_dict()
    channels, height, width = image.shape
    image = nn.functional.pad(image, (0, -width % 4, 0, -height % 4))
    patches = image.view(channels, image.shape[1] // 4, 4, image.shape[2] // 4, 4)
    x = torch.einsum("chiwj,ocij->hwo", patches, state["features.0.0.weight"]) + state["features.0.0.bias"]
    x = layer_norm(x, state, "features.0.2")
    features = []
    for stage, (depth, heads) in enumerate(zip(TINY["depths"], TINY["num_heads"], strict=True)):
        for index in range(depth):
            block = f"features.{1 + 2 * stage}.{index}"
            shift = window // 2 if index % 2 else 0
            if not shift_small_maps:
                assert max(x.shape[:2]) <= window
                shift = 0
            normed = layer_norm(x, state, f"{block}.norm1")
            x = x + attention(normed, state, f"{block}.attn", heads, window, shift)
            hidden = linear(layer_norm(x, state, f"{block}.norm2"), state, f"{block}.mlp.0")
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
            x = x + linear(hidden, state, f"{block}.mlp.3")
        features.append(layer_norm(x, state, f"norm{stage}"))
        if stage < 3:
            x = nn.functional.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[0] % 2))
            # the original's order: down the columns first
            corners = [x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]]
            merged = layer_norm(torch.cat(corners, dim=-1), state, f"features.{2 + 2 * stage}.norm")
            x = linear(merged, state, f"features.{2 + 2 * stage}.reduction")
    return features


@pytest.mark.parametrize(
    ("window", "height", "width"),
    # maps of 26x34, 13x17, 7x9, 4x5: no side a multiple of the window but one; an image whose sides 4 does not divide;
    # maps of 28x20, 14x10, 7x5, 4x3
    [(3, 104, 136), (3, 101, 131), (2, 112, 80)],
)
@torch.no_grad()
def test_the_original_formulation(window, height, width):
    backbone = random_swin(window_size=window)
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    features = backbone(images)
    for image, *ours in zip(images, *features.values(), strict=True):
        for key, mine, expected in zip(features, ours, original_swin(backbone, image, window), strict=True):
            torch.testing.assert_close(mine.permute(1, 2, 0), expected, msg=lambda text, key=key: f"{key}: {text}")


@torch.no_grad()
def test_maps_within_one_window_are_not_shifted():
    backbone = random_swin(window_size=7)
    image = torch.randn(1, 3, 28, 24, dtype=torch.float64)  # maps of 7x6, 4x3, 2x2, 1x1
    expected = original_swin(backbone, image[0], 7, shift_small_maps=False)
    for feature, level in zip(backbone(image).values(), expected, strict=True):
        torch.testing.assert_close(feature[0].permute(1, 2, 0), level)


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
    cfg = swin_config("MODEL.QUERYPOSE.HIDDEN_DIM", 16)
    cfg.MODEL.SWIN[key] = value
    with pytest.raises(UserError, match=f"MODEL.SWIN.*{reason}"):
        check_config(cfg)
