"""Swin checkpoints in the original naming, for the backbone made of torchvision's SwinTransformer."""

import re
from collections.abc import Mapping

from timm.layers import resize_rel_pos_bias_table_simple
from torch import Tensor
from torchvision.models.swin_transformer import ShiftedWindowAttention

from querypose.conversion.files import Conversion, load_backbone
from querypose.conversion.layout import BOTTOM_UP, Layout, Shape, number_of, shape_of
from querypose.errors import UserError

_INDEX = "relative_position_index"
BUFFERS = {
    rf".+\.{_INDEX}": f"{_INDEX}, computed from the window",
    r".+\.attn_mask": "attn_mask, computed from the size of the image",
}
# the classifier with the norm before it; what detectors and segmenters put on top
_HEADS = {
    r"(?:head|norm|neck|rpn_head|roi_head|bbox_head|mask_head|decode_head|auxiliary_head)\..+": "the head, which is "
    "no part of the backbone"
}
_OPTIONAL = {re.escape(BOTTOM_UP) + r"norm\d\..+": "norms of the four outputs, which the file does not hold"}


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


def window_of(table_rows: int) -> int:
    """The window that a table of (2 * window - 1) ** 2 relative positions belongs to."""
    side = round(table_rows**0.5)
    if side * side != table_rows or side % 2 == 0:
        raise UserError(f"a relative position table of {table_rows} rows belongs to no square window")
    return (side + 1) // 2


def swin_settings(state_dict: Mapping[str, Tensor]) -> dict[str, object]:
    """Config values inferred from the shapes of a Swin backbone's tensors in the original naming."""
    stages = range(number_of(state_dict, r"layers\.(\d+)\..+"))
    table = r"layers\.{}\.blocks\.\d+\.attn\.relative_position_bias_table"
    return {
        "MODEL.BACKBONE.NAME": "build_swin_fpn_backbone",
        "MODEL.SWIN.EMBED_DIM": shape_of(state_dict, r"patch_embed\.proj\.weight", 4)[0],
        "MODEL.SWIN.DEPTHS": [number_of(state_dict, rf"layers\.{stage}\.blocks\.(\d+)\..+") for stage in stages],
        "MODEL.SWIN.NUM_HEADS": [shape_of(state_dict, table.format(stage), 2)[1] for stage in stages],
        "MODEL.SWIN.WINDOW_SIZE": window_of(shape_of(state_dict, table.format(r"\d+"), 2)[0]),
    }


def convert_swin_checkpoint(path: str) -> Conversion:
    """Read an original Swin checkpoint (classifier, detector or segmenter) as weights of our backbone.

    Any head is dropped; relative position tables are interpolated where the config has another window.
    """
    kind = "Swin in the original naming"
    theirs, dropped = load_backbone(path, kind, "patch_embed.proj.weight", {**_HEADS, **BUFFERS})
    settings = swin_settings(theirs)
    del settings["MODEL.SWIN.WINDOW_SIZE"]
    layout = Layout.closest(settings, BOTTOM_UP)
    tensors = {BOTTOM_UP + to_torchvision(name): tensor for name, tensor in theirs.items()}
    tables = [name for name in tensors if name.endswith("relative_position_bias_table") and name in layout.shapes]
    window, target = (window_of(rows) for rows in (len(tensors[tables[0]]), layout.shapes[tables[0]][0]))
    if target != window:
        # a misshapen one is reported below
        for name in (name for name in tables if tensors[name].shape == ((2 * window - 1) ** 2, layout.shapes[name][1])):
            resized = resize_rel_pos_bias_table_simple(tensors[name].float(), (target, target), layout.shapes[name])
            tensors[name] = resized.contiguous().to(tensors[name].dtype)
    conversion = layout.conversion(path, {**tensors, **index_buffers(layout.shapes)}, dropped, _OPTIONAL)
    if target != window:
        conversion.notes = [f"interpolated {len(tables)} relative position tables from window {window} to {target}"]
    return conversion
