"""HRNet's two necks against their formulas, written out; test_conversion.py has the authors' names."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from querypose.modeling.backbones.hrnet import HRNetBackbone

CHANNELS = [3, 5, 6, 7]


def upsampled(branch):
    resized = [cv2.resize(image, (16, 8)) for image in branch.permute(0, 2, 3, 1).numpy()]
    return torch.tensor(np.stack(resized)).permute(0, 3, 1, 2)


def convolved(feature, state, name):
    weight = state[f"{name}.weight"]
    return F.conv2d(feature, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


@pytest.mark.parametrize("name", ["pooled", "lateral"])
@torch.no_grad()
def test_necks_by_their_formulas(name):
    branches = [torch.randn(2, channels, 8 >> i, 16 >> i, dtype=torch.float64) for i, channels in enumerate(CHANNELS)]
    bottom_up = nn.Identity()  # the branches are those of any "image"
    neck = HRNetBackbone(bottom_up=bottom_up, channels=CHANNELS, out_channels=4, neck=name).double()
    for parameter in neck.parameters():
        nn.init.normal_(parameter, std=0.3)
    state, result = neck.state_dict(), neck(branches)
    assert list(result) == ["p2", "p3", "p4", "p5"]
    stacked = torch.cat([upsampled(branch) for branch in branches], dim=1)
    expected = convolved(stacked, state, "reduction_conv.0")
    for i, level in enumerate(result.values()):
        if i:
            expected = F.avg_pool2d(expected, 2)
            expected = expected + (convolved(branches[i], state, f"lateral_conv.{i}") if name == "lateral" else 0)
        torch.testing.assert_close(level, convolved(expected, state, f"fpn_conv.{i}"))
