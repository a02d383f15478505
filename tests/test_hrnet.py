"""HRNet with the two necks, against the formulas written out, and its names against the authors' checkpoints."""

import json

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from tiny_model import tiny_config
from torch import nn
from torch.nn import functional as F

from querypose.errors import UserError
from querypose.modeling.backbones.hrnet import HRNetBackbone, build_hrnet_backbone

SMALL = "hrnet_w18_small"  # 9 million parameters, branches of 16, 32, 64, 128 channels
CHANNELS = [3, 5, 6, 7]


def hrnet_config(*opts):
    return tiny_config("light", "MODEL.BACKBONE.NAME", "build_hrnet_backbone", "MODEL.HRNET.NAME", SMALL, *opts)


class FixedBranches(nn.Module):
    """Stands in for HRNet: the same four maps of any image."""

    def __init__(self, branches):
        super().__init__()
        self.branches = branches

    def forward(self, image):
        return self.branches


def random_branches(height=8, width=16):
    return [
        torch.randn(2, channels, height >> i, width >> i, dtype=torch.float64) for i, channels in enumerate(CHANNELS)
    ]


def interpolation_matrix(size: int, factor: int) -> torch.Tensor:
    """(size * factor, size): linear interpolation between pixel centers, constant beyond the outer ones."""
    matrix = torch.zeros(size * factor, size, dtype=torch.float64)
    for row in range(size * factor):
        position = min(max((row + 0.5) / factor - 0.5, 0.0), size - 1.0)
        low = int(position)
        matrix[row, low] += 1 - (position - low)
        if low + 1 < size:
            matrix[row, low + 1] += position - low
    return matrix


def upsampled(branch, factor):
    rows, columns = (interpolation_matrix(size, factor) for size in branch.shape[-2:])
    return torch.einsum("yh,bchw,xw->bcyx", rows, branch, columns)


def convolved(feature, state, name):
    weight = state[f"{name}.weight"]
    return F.conv2d(feature, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


@pytest.mark.parametrize("name", ["pooled", "lateral"])
@torch.no_grad()
def test_necks_by_their_formulas(name):
    branches = random_branches()
    neck = HRNetBackbone(bottom_up=FixedBranches(branches), channels=CHANNELS, out_channels=4, neck=name).double()
    for parameter in neck.parameters():
        nn.init.normal_(parameter, std=0.3)
    state, result = neck.state_dict(), neck(None)
    assert list(result) == ["p2", "p3", "p4", "p5"]
    stacked = torch.cat([upsampled(branch, 2**i) for i, branch in enumerate(branches)], dim=1)
    expected = convolved(stacked, state, "reduction_conv.0")
    for i, level in enumerate(result.values()):
        if i:
            expected = F.avg_pool2d(expected, 2)
            expected = expected + (convolved(branches[i], state, f"lateral_conv.{i}") if name == "lateral" else 0)
        torch.testing.assert_close(level, convolved(expected, state, f"fpn_conv.{i}"))


@pytest.mark.parametrize(
    ("name", "neck", "keys", "unused"),
    [
        ("hrnet_w32", "pooled", "W32_light", {"fpn_conv.4.weight", "fpn_conv.4.bias"}),
        ("hrnet_w48", "lateral", "W48_full", {"fpn_conv.4.weight", "lateral_conv.0.weight"}),
    ],
)
def test_names_and_shapes_are_the_authors(shared_folder, name, neck, keys, unused):
    theirs = json.loads((shared_folder / f"parity/keys_{keys}.json").read_text())
    prefix = "backbone."
    theirs = {key.removeprefix(prefix): shape for key, shape in theirs.items() if key.startswith(prefix)}
    opts = ("MODEL.HRNET.NAME", name, "MODEL.HRNET.NECK", neck, "MODEL.FPN.OUT_CHANNELS", 256)
    with torch.device("meta"):
        ours = build_hrnet_backbone(hrnet_config(*opts), ShapeSpec(channels=3)).state_dict()
    assert {key: list(tensor.shape) for key, tensor in ours.items()} == {
        key: shape for key, shape in theirs.items() if key not in unused
    }
    assert unused < set(theirs)


@pytest.mark.parametrize(
    ("opts", "reason"),
    [
        (("MODEL.HRNET.NAME", "hrnet_w33"), "MODEL.HRNET.NAME is 'hrnet_w33', which timm cannot build"),
        (("MODEL.HRNET.NAME", "resnet18"), "give one of timm's HRNets, such as hrnet_w32"),
    ],
)
def test_values_that_cannot_be(opts, reason):
    with pytest.raises(UserError, match=reason):
        build_backbone(hrnet_config(*opts))
