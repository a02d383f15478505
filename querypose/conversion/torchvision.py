"""torchvision's ImageNet ResNets for the backbone that Detectron2's ResNet makes."""

import re

from querypose.conversion.files import Conversion, load_tensors
from querypose.conversion.layout import check_tensors, closest_configs, expected_shapes
from querypose.errors import UserError

_PREFIX = "backbone.bottom_up."
_HEAD = "the classifier (fc), which a backbone goes without"
_COUNTERS = "counters of trained batches, which frozen BatchNorm has no use for"

# ResNet-50 and -101 differ in the number of blocks of their third layer
_DEPTH_OF_BLOCKS = {6: 50, 23: 101}


def convert_torchvision_checkpoint(path: str) -> Conversion:
    """Read a torchvision `resnet50-*.pth` or `resnet101-*.pth` as weights of our backbone.

    torchvision's blocks have their stride in the 3x3 convolution, as the configs say (MODEL.RESNETS.STRIDE_IN_1X1).

    Raises:
        UserError: a file that is missing, holds code, or is not exactly such a ResNet.
    """
    loaded, dropped = load_tensors(path)
    theirs = {}
    for name, tensor in loaded.items():
        if name.startswith("fc."):
            dropped.setdefault(_HEAD, []).append(name)
        elif name.endswith(".num_batches_tracked"):
            dropped.setdefault(_COUNTERS, []).append(name)
        else:
            theirs[_our_name(name)] = tensor
    blocks = {name.split(".")[1] for name in theirs if name.startswith("res4.")}
    depth = _DEPTH_OF_BLOCKS.get(len(blocks))
    if depth is None or "res4.0.conv3.weight" not in theirs:
        raise UserError(
            f"the checkpoint '{path}' is no ResNet-50 or ResNet-101 of torchvision: its third layer has {len(blocks)} "
            f"blocks where those have {' and '.join(map(str, _DEPTH_OF_BLOCKS))}"
        )
    settings = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH": depth}
    configs, overrides = closest_configs(settings)
    check_tensors(path, theirs, expected_shapes(configs[0], overrides, _PREFIX))
    return Conversion({_PREFIX + name: tensor for name, tensor in theirs.items()}, dropped, {}, configs, overrides)


def _our_name(name: str) -> str:
    """layer1.0.bn2.weight -> res2.0.conv2.norm.weight"""
    name = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
