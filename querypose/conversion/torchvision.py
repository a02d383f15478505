"""torchvision's ImageNet ResNets, for the backbone made of Detectron2's ResNet."""

import re

from querypose.conversion.files import Conversion, load_backbone
from querypose.conversion.layout import BOTTOM_UP, Layout, number_of
from querypose.errors import UserError

_HEADS = {r"fc\..+": "the classifier (fc), which is not part of the backbone"}

# ResNet-50 and -101 differ in the number of blocks of their third layer
_DEPTH_OF_BLOCKS = {6: 50, 23: 101}


def convert_torchvision_checkpoint(path: str) -> Conversion:
    """Read a torchvision `resnet50-*.pth` or `resnet101-*.pth` as weights of our backbone.

    torchvision's blocks have their stride in the 3x3 convolution, as the configs say (MODEL.RESNETS.STRIDE_IN_1X1).
    """
    theirs, dropped = load_backbone(path, "ResNet-50 or ResNet-101 of torchvision", "layer3.0.conv3.weight", _HEADS)
    blocks = number_of(theirs, r"layer3\.(\d+)\..+")
    if blocks not in _DEPTH_OF_BLOCKS:
        raise UserError(f"{path} is not torchvision's ResNet-50 or ResNet-101: its third layer has {blocks} blocks")
    settings = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH": _DEPTH_OF_BLOCKS[blocks]}
    layout = Layout.closest(settings, BOTTOM_UP)
    return layout.conversion(path, {BOTTOM_UP + _our_name(name): tensor for name, tensor in theirs.items()}, dropped)


def _our_name(name: str) -> str:
    """layer1.0.bn2.weight -> res2.0.conv2.norm.weight"""
    name = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
