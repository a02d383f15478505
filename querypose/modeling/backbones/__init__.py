"""Backbones beyond Detectron2's ResNet, each with its neck: `build_..._backbone` in Detectron2's BACKBONE_REGISTRY.

All return maps p2 .. p5 of `MODEL.FPN.OUT_CHANNELS` channels at strides 4, 8, 16 and 32. Every trainable parameter of
theirs has a gradient in every step, so that distributed training need not look for those that have none.
"""

from querypose.modeling.backbones.hrnet import build_hrnet_backbone
from querypose.modeling.backbones.movenet import MoveNetBackbone, build_movenet_backbone
from querypose.modeling.backbones.swin import SwinBackbone, build_swin_fpn_backbone
from querypose.modeling.backbones.timm_models import TimmBackbone, build_timm_fpn_backbone

__all__ = [
    "MoveNetBackbone",
    "SwinBackbone",
    "TimmBackbone",
    "build_hrnet_backbone",
    "build_movenet_backbone",
    "build_swin_fpn_backbone",
    "build_timm_fpn_backbone",
]
