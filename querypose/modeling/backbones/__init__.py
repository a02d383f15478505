"""Backbones beyond Detectron2's ResNet, each with its neck: `build_..._backbone` in Detectron2's BACKBONE_REGISTRY.

All return maps p2 .. p5 of `MODEL.FPN.OUT_CHANNELS` channels at strides 4, 8, 16 and 32. Every trainable parameter of
theirs has a gradient in every step, so that distributed training need not look for those that have none.
"""

from querypose.modeling.backbones import hrnet, movenet, swin, timm_models

__all__ = ["hrnet", "movenet", "swin", "timm_models"]
