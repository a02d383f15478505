"""HRNet from timm with the two necks of the authors' models."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from querypose.modeling.backbones.timm_models import create_timm_model, set_batch_norm

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}  # of HRNet's four branches, too


class HRNetBackbone(Backbone):
    """HRNet with one of the authors' necks; names of parameters are those of their checkpoints.

    The branches, upsampled (bilinear) to stride 4 and concatenated, are reduced to `out_channels` by a 1x1 convolution:
    level 0. In the "pooled" neck, of their W32, level i is level 0 averaged over 2^i x 2^i locations; in the "lateral"
    neck, of their W48, it is the level before averaged over 2x2 locations, plus branch i (1x1 convolution). A 3x3
    convolution for each level is last.
    """

    size_divisibility = 32

    @configurable
    def __init__(self, *, bottom_up: nn.Module, channels: list[int], out_channels: int, neck: str):
        """bottom_up: (B, 3, H, W) -> the four branches at strides 4, 8, 16 and 32, with these channels."""
        super().__init__()
        pooled = neck == "pooled"
        self.bottom_up = bottom_up
        self.reduction_conv = nn.Sequential(nn.Conv2d(sum(channels), out_channels, kernel_size=1))
        self.fpn_conv = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=pooled) for _ in STRIDES)
        self.lateral_conv = nn.ModuleDict()
        for level in range(1, 1 if pooled else len(STRIDES)):
            self.lateral_conv[str(level)] = nn.Conv2d(channels[level], out_channels, kernel_size=1, bias=False)
        for conv in (*self.reduction_conv, *self.fpn_conv, *self.lateral_conv.values()):
            weight_init.c2_xavier_fill(conv)
        self._out_features = list(STRIDES)
        self._out_feature_strides = dict(STRIDES)
        self._out_feature_channels = dict.fromkeys(STRIDES, out_channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        hrnet = cfg.MODEL.HRNET
        # index 0 would be the stem at stride 2; without a location the branches are not widened for a classifier
        bottom_up = create_timm_model("MODEL.HRNET.NAME", hrnet.NAME, feature_location="", out_indices=(1, 2, 3, 4))
        set_batch_norm(bottom_up, hrnet.NORM, "MODEL.HRNET.NORM")
        return {
            "bottom_up": bottom_up,
            "channels": bottom_up.feature_info.channels(),
            "out_channels": cfg.MODEL.FPN.OUT_CHANNELS,
            "neck": hrnet.NECK,
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image (B, 3, H, W), normalized, sides multiples of 32 -> p2 .. p5, (B, C, H / stride, W / stride)."""
        branches = self.bottom_up(image)
        size = branches[0].shape[-2:]
        upsampled = [F.interpolate(branch, size, mode="bilinear", align_corners=False) for branch in branches[1:]]
        levels = [self.reduction_conv(torch.cat([branches[0], *upsampled], dim=1))]
        for i in range(1, len(STRIDES)):
            if self.lateral_conv:
                levels.append(F.avg_pool2d(levels[-1], 2) + self.lateral_conv[str(i)](branches[i]))
            else:
                levels.append(F.avg_pool2d(levels[0], 2**i))
        return {name: conv(level) for name, conv, level in zip(STRIDES, self.fpn_conv, levels, strict=True)}


@BACKBONE_REGISTRY.register()
def build_hrnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> HRNetBackbone:
    """`MODEL.HRNET.NAME` with the neck `MODEL.HRNET.NECK`: levels p2 .. p5."""
    return HRNetBackbone(cfg, input_shape)
