"""Public checkpoints of HRNet, Swin and torchvision's ResNet, for our backbones of these kinds."""

import re
from collections.abc import Mapping

from timm.layers import resize_rel_pos_bias_table_simple
from torch import Tensor
from torchvision.models.swin_transformer import ShiftedWindowAttention

from querypose.conversion.layout import BOTTOM_UP, Conversion, Layout, load_tensors
from querypose.errors import UserError

_INDEX = "relative_position_index"
SWIN_BUFFERS = {
    rf".+\.{_INDEX}": f"{_INDEX}, computed from the window",
    r".+\.attn_mask": "attn_mask, computed from the size of the image",
}
# what classifiers, pose estimators, detectors and segmenters put on top: of ResNet, HRNet, and Swin with its last norm
_HEADS = (
    r"(?:backbone\.)?(?:fc|classifier|final_layer|last_layer|incre_modules|downsamp_modules|keypoint_head|"
    r"head|norm|neck|rpn_head|roi_head|bbox_head|mask_head|decode_head|auxiliary_head)\..+"
)
# what a file may lack: pattern of our names -> what that is
_OPTIONAL = {
    re.escape(BOTTOM_UP) + r"stage4\.2\.fuse_layers\.[123]\..+": "the coarser outputs, which a pose-HRNet lacks",
    re.escape(BOTTOM_UP) + r"norm\d\..+": "norms of the four outputs, which the file does not hold",
}


def _load_backbone(path: str, kind: str, first: str) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Tensors by name, without the prefix "backbone." that some files use, and what was left out: reason -> names.

    kind: what the checkpoint should be, for messages. first: a tensor that every backbone of this kind has.
    """
    tensors, dropped = load_tensors(path, {_HEADS: "the head, which is not part of the backbone", **SWIN_BUFFERS})
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    if first not in tensors:
        raise UserError(f"the checkpoint {path} does not match {kind}: it lacks {first}")
    return tensors, dropped


def backbone_settings(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Config values that tell the configs' backbones apart; the names are the original ones, of ResNet Detectron2's."""
    if "transition1.0.0.weight" in tensors:
        width = tensors["transition1.0.0.weight"].shape[0]
        return {"MODEL.BACKBONE.NAME": "build_hrnet_backbone", "MODEL.HRNET.NAME": f"hrnet_w{width}"}
    if "patch_embed.proj.weight" in tensors:
        return {
            "MODEL.BACKBONE.NAME": "build_swin_fpn_backbone",
            "MODEL.SWIN.EMBED_DIM": tensors["patch_embed.proj.weight"].shape[0],
            "MODEL.SWIN.DEPTHS": [2, 2, 18 if "layers.2.blocks.6.norm1.weight" in tensors else 6, 2],
        }
    depth = 101 if "res4.6.conv1.weight" in tensors else 50
    return {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH": depth}


def convert_hrnet_checkpoint(path: str) -> Conversion:
    """Read a pose-HRNet or an ImageNet HRNet as weights of our backbone; the names stay as they are."""
    theirs, dropped = _load_backbone(path, "HRNet", "transition1.0.0.weight")
    layout = Layout.closest(backbone_settings(theirs), BOTTOM_UP)
    return layout.conversion(path, {BOTTOM_UP + name: tensor for name, tensor in theirs.items()}, dropped, _OPTIONAL)


def convert_torchvision_checkpoint(path: str) -> Conversion:
    """Read a torchvision `resnet50-*.pth` or `resnet101-*.pth` as weights of our backbone.

    torchvision's blocks have their stride in the 3x3 convolution, as the configs say (MODEL.RESNETS.STRIDE_IN_1X1).
    """
    theirs, dropped = _load_backbone(path, "ResNet-50 or ResNet-101 of torchvision", "layer3.0.conv3.weight")
    ours = {_from_torchvision(name): tensor for name, tensor in theirs.items()}
    layout = Layout.closest(backbone_settings(ours), BOTTOM_UP)
    return layout.conversion(path, {BOTTOM_UP + name: tensor for name, tensor in ours.items()}, dropped)


def _from_torchvision(name: str) -> str:
    """layer1.0.bn2.weight -> res2.0.conv2.norm.weight"""
    name = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def convert_swin_checkpoint(path: str) -> Conversion:
    """Read an original Swin checkpoint (classifier, detector or segmenter) as weights of our backbone.

    Relative position tables are interpolated where the config has another window.
    """
    theirs, dropped = _load_backbone(path, "Swin as Microsoft publishes it", "patch_embed.proj.weight")
    layout = Layout.closest(backbone_settings(theirs), BOTTOM_UP)
    tensors = {BOTTOM_UP + to_torchvision(name): tensor for name, tensor in theirs.items()}
    resized = []
    for name, table in tensors.items():
        shape = layout.tensors[name].shape if name in layout.tensors else table.shape
        # a row for each of (2 * window - 1) ** 2 relative positions
        if name.endswith("relative_position_bias_table") and len(table) != shape[0]:
            window = (round(shape[0] ** 0.5) + 1) // 2
            tensors[name] = resize_rel_pos_bias_table_simple(table.float(), (window, window), shape).to(table.dtype)
            resized.append(name)
    conversion = layout.conversion(path, {**tensors, **index_buffers(layout.tensors)}, dropped, _OPTIONAL)
    if resized:
        conversion.interpolated["relative position tables, to the window of the config"] = resized
    return conversion


def to_torchvision(name: str) -> str:
    """torchvision's name of an original Swin tensor; others stay as they are."""
    if match := re.fullmatch(r"patch_embed\.(proj|norm)\.(.+)", name):
        return f"features.0.{'0' if match[1] == 'proj' else '2'}.{match[2]}"
    if match := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", name):
        rest = match[3].replace("mlp.fc1.", "mlp.0.").replace("mlp.fc2.", "mlp.3.")
        return f"features.{1 + 2 * int(match[1])}.{match[2]}.{rest}"
    if match := re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", name):
        return f"features.{2 + 2 * int(match[1])}.{match[2]}"
    return name


def index_buffers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Buffers among `tensors` that map each pair of locations in a window to a row of the bias table."""
    sides = {name: round(len(tensor) ** 0.25) for name, tensor in tensors.items() if name.endswith(_INDEX)}
    return {
        name: ShiftedWindowAttention(1, [side, side], [0, 0], num_heads=1).relative_position_index
        for name, side in sides.items()
    }
