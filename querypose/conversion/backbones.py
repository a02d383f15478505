"""Public checkpoints of HRNet, Swin and torchvision's ResNet, for our backbones of these kinds."""

import re
from collections.abc import Mapping

from timm.layers import resize_rel_pos_bias_table_simple
from torch import Tensor
from torchvision.models.swin_transformer import ShiftedWindowAttention

from querypose.conversion.layout import BOTTOM_UP, Conversion, Layout, Shape, load_tensors, number_of, shape_of
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
    if f"backbone.{first}" in tensors:
        tensors = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    if first not in tensors:
        raise UserError(f"the checkpoint {path} does not match {kind}: it lacks {first}")
    return tensors, dropped


def convert_hrnet_checkpoint(path: str) -> Conversion:
    """Read a pose-HRNet or an ImageNet HRNet as weights of our backbone; the names stay as they are."""
    theirs, dropped = _load_backbone(path, "HRNet", "transition1.0.0.weight")
    layout = Layout.closest(hrnet_settings(theirs), BOTTOM_UP)
    return layout.conversion(path, {BOTTOM_UP + name: tensor for name, tensor in theirs.items()}, dropped, _OPTIONAL)


def hrnet_settings(state_dict: Mapping[str, Tensor]) -> dict[str, object]:
    """Config values inferred from the shapes of an HRNet's tensors in the original naming."""
    width = shape_of(state_dict, r"transition1\.0\.0\.weight")[0]
    return {"MODEL.BACKBONE.NAME": "build_hrnet_backbone", "MODEL.HRNET.NAME": f"hrnet_w{width}"}


def convert_torchvision_checkpoint(path: str) -> Conversion:
    """Read a torchvision `resnet50-*.pth` or `resnet101-*.pth` as weights of our backbone.

    torchvision's blocks have their stride in the 3x3 convolution, as the configs say (MODEL.RESNETS.STRIDE_IN_1X1).
    """
    theirs, dropped = _load_backbone(path, "ResNet-50 or ResNet-101 of torchvision", "layer3.0.conv3.weight")
    depth = 101 if "layer3.6.conv1.weight" in theirs else 50
    settings = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH": depth}
    layout = Layout.closest(settings, BOTTOM_UP)
    tensors = {BOTTOM_UP + _from_torchvision(name): tensor for name, tensor in theirs.items()}
    return layout.conversion(path, tensors, dropped)


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
    theirs, dropped = _load_backbone(path, "Swin in the original naming", "patch_embed.proj.weight")
    settings = swin_settings(theirs)
    del settings["MODEL.SWIN.WINDOW_SIZE"]
    layout = Layout.closest(settings, BOTTOM_UP)
    tensors = {BOTTOM_UP + to_torchvision(name): tensor for name, tensor in theirs.items()}
    tables = [name for name in tensors if name.endswith("relative_position_bias_table") and name in layout.shapes]
    window, target = (_window_of(shape) for shape in (tensors[tables[0]].shape, layout.shapes[tables[0]]))
    for name in tables if target != window else []:
        table = tensors[name]
        if table.shape == ((2 * window - 1) ** 2, layout.shapes[name][1]):  # `Layout.conversion` reports others
            resized = resize_rel_pos_bias_table_simple(table.float(), (target, target), layout.shapes[name])
            tensors[name] = resized.contiguous().to(table.dtype)
    conversion = layout.conversion(path, {**tensors, **index_buffers(layout.shapes)}, dropped, _OPTIONAL)
    if target != window:
        conversion.notes = [f"interpolated {len(tables)} relative position tables from window {window} to {target}"]
    return conversion


def swin_settings(state_dict: Mapping[str, Tensor]) -> dict[str, object]:
    """Config values inferred from the shapes of a Swin backbone's tensors in the original naming."""
    stages = range(number_of(state_dict, r"layers\.(\d+)\..+"))
    table = r"layers\.{}\.blocks\.\d+\.attn\.relative_position_bias_table"
    return {
        "MODEL.BACKBONE.NAME": "build_swin_fpn_backbone",
        "MODEL.SWIN.EMBED_DIM": shape_of(state_dict, r"patch_embed\.proj\.weight")[0],
        "MODEL.SWIN.DEPTHS": [number_of(state_dict, rf"layers\.{stage}\.blocks\.(\d+)\..+") for stage in stages],
        "MODEL.SWIN.NUM_HEADS": [shape_of(state_dict, table.format(stage))[1] for stage in stages],
        "MODEL.SWIN.WINDOW_SIZE": _window_of(shape_of(state_dict, table.format(r"\d+"))),
    }


def _window_of(table: Shape) -> int:
    """A table has a row for each of (2 * window - 1) ** 2 relative positions."""
    return (round(table[0] ** 0.5) + 1) // 2


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


def index_buffers(shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Buffers among `shapes` that map each pair of locations in a window to a row of the bias table."""
    sides = {name: round(shape[0] ** 0.25) for name, shape in shapes.items() if name.endswith(_INDEX)}
    return {
        name: ShiftedWindowAttention(1, [side, side], [0, 0], num_heads=1).relative_position_index
        for name, side in sides.items()
    }
