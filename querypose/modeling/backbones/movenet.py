"""MoveNet MultiPose (Google, Apache-2.0): MobileNetV2, its pyramid neck and its dense heads as a backbone."""

import contextlib
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from fvcore.nn import weight_init
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

# MobileNetV2's stages in timm's notation
MOBILENET_V2 = ["ds_r1_k3_s1_c16", "ir_r2_k3_s2_e6_c24", "ir_r3_k3_s2_e6_c32", "ir_r4_k3_s2_e6_c64"]
MOBILENET_V2 += ["ir_r3_k3_s1_e6_c96", "ir_r3_k3_s2_e6_c160", "ir_r1_k3_s1_e6_c320"]
PEAK_CHANNELS = 24
# stride -> channels in and out of the neck's 1x1 and of its separable 3x3 convolutions
LATERALS = {"4": (40, PEAK_CHANNELS), "8": (48, 32), "16": (96, 64), "32": (1280, 64)}
SMOOTHINGS = {"16": (64, 32), "8": (32, PEAK_CHANNELS), "4": (PEAK_CHANNELS, PEAK_CHANNELS)}

# channels of the heads: logit of a person's center, logits of 17 keypoints' heatmaps, (y, x) of each keypoint from the
# center, (h, w) of the box, (y, x) of the center within its location; lengths in strides
HEADS = {"center": 1, "heatmaps": 17, "regression": 34, "size": 2, "offset": 2}


class HalvingConv2d(nn.Conv2d):
    """Stride 2 with TensorFlow's "SAME" padding of an even size: one row below, one column right."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():  # ONNX pads each side of a convolution by its own number
            return super().forward(F.pad(x, (0, 1, 0, 1)))
        # the same without a padded copy of x: zeros before the kernel, and padding on both sides
        return F.conv2d(x, F.pad(self.weight, (1, 0, 1, 0)), self.bias, self.stride, 1, groups=self.groups)


class MoveNetBackbone(Backbone):
    """MoveNet's trunk, neck and heads, and 1x1 convolutions from its neck to p2 .. p5.

    p2 is made of the neck's map at stride 4 and of the heads' maps, which show where persons and keypoints are.
    Norms are part of the convolutions, as in the published file.
    """

    size_divisibility = 32
    peak_channels = PEAK_CHANNELS  # of "peak_features"

    @configurable
    def __init__(self, *, out_channels: int, frozen: bool = True):
        """frozen: only the convolutions to p2 .. p5 are trained, else trunk and neck too; the heads never are."""
        super().__init__()
        self.trunk = build_trunk()
        self.lateral = nn.ModuleDict({stride: nn.Conv2d(*channels, 1) for stride, channels in LATERALS.items()})
        self.smooth = nn.ModuleDict({stride: separable_conv(*channels) for stride, channels in SMOOTHINGS.items()})
        self.heads = nn.ModuleDict()
        for name, channels in HEADS.items():
            self.heads[name] = nn.Sequential(*separable_conv(PEAK_CHANNELS, 96), nn.Conv2d(96, channels, 1))
        self.requires_grad_(not frozen)
        self.heads.requires_grad_(False)  # their maps keep their meaning
        self.frozen = frozen
        inputs = {"p2": PEAK_CHANNELS + sum(HEADS.values()) - HEADS["offset"], "p3": 32, "p4": 64, "p5": 64}
        self.project = nn.ModuleDict({name: nn.Conv2d(number, out_channels, 1) for name, number in inputs.items()})
        for conv in self.project.values():
            weight_init.c2_xavier_fill(conv)
        self._out_features = list(self.project)
        self._out_feature_strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        return {"out_channels": cfg.MODEL.FPN.OUT_CHANNELS, "frozen": cfg.MODEL.MOVENET.FROZEN}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image (B, 3, H, W): RGB from -1 to 1 (pixel mean and deviation 127.5), sides multiples of 32.

        Returns "p2" .. "p5" (B, C, H / stride, W / stride), "peak_features" (B, 24, H / 4, W / 4), which is the neck's
        finest map, and the heads' "center", "size" and "offset", see `HEADS`.
        """
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            neck = self.pyramid(image)
            maps = self.dense_maps(neck["p2"])
        peaks = [4 * maps["center"].sigmoid(), 4 * maps["heatmaps"].sigmoid()]
        inputs = neck | {"p2": torch.cat([neck["p2"], *peaks, maps["regression"] / 10, maps["size"] / 20], dim=1)}
        levels = {name: conv(inputs[name]) for name, conv in self.project.items()}
        return {**levels, "peak_features": neck["p2"], **{name: maps[name] for name in ("center", "size", "offset")}}

    def pyramid(self, image: Tensor) -> dict[str, Tensor]:
        """The neck's maps by the level that is made of them, at strides 4 (24 channels), 8 (32), 16 (64), 32 (64)."""
        x = self.trunk.bn1(self.trunk.conv_stem(image))
        features = [x := stage(x) for stage in self.trunk.blocks]
        x32 = self.lateral["32"](self.trunk.bn2(self.trunk.conv_head(x)))
        s16 = _upsample(x32) + self.lateral["16"](features[3])
        s8 = _upsample(self.smooth["16"](s16)) + self.lateral["8"](features[2])
        s4 = _upsample(self.smooth["8"](s8)) + self.lateral["4"](features[1])
        return {"p2": self.smooth["4"](s4), "p3": s8, "p4": s16, "p5": x32}

    def dense_maps(self, f4: Tensor) -> dict[str, Tensor]:
        """(B, 24, H / 4, W / 4) -> the heads' maps as in `HEADS`, in float32 under autocast too."""
        with torch.autocast(f4.device.type, enabled=False):
            f4 = f4.float()
            return {name: head(f4) for name, head in self.heads.items()}


def build_trunk() -> EfficientNet:
    """timm's MobileNetV2 of width 1.5 with biases in its convolutions instead of BatchNorm."""
    trunk = EfficientNet(
        decode_arch_def([[stage] for stage in MOBILENET_V2]),
        num_classes=0,
        num_features=1280,
        stem_size=32,
        round_chs_fn=partial(round_channels, multiplier=1.5),
        act_layer=nn.ReLU6,
    )
    for name, module in list(trunk.named_modules()):
        parent, _, attribute = name.rpartition(".")
        if isinstance(module, nn.Conv2d):
            (kernel, _), (stride, _) = module.kernel_size, module.stride
            kind, padding = (HalvingConv2d, 0) if stride == 2 else (nn.Conv2d, kernel // 2)
            conv = kind(module.in_channels, module.out_channels, kernel, stride, padding, groups=module.groups)
            setattr(trunk.get_submodule(parent), attribute, conv)
        elif isinstance(module, BatchNormAct2d):
            setattr(trunk.get_submodule(parent), attribute, module.act)
    return trunk


def separable_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(in_channels, out_channels, 1), nn.ReLU())


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


@BACKBONE_REGISTRY.register()
def build_movenet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MoveNetBackbone:
    """MoveNet MultiPose with levels p2 .. p5, and the maps from which first boxes can be read."""
    return MoveNetBackbone(cfg, input_shape)
