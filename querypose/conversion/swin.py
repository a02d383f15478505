"""Swin checkpoints in the original naming, for the backbone that torchvision's SwinTransformer makes."""

import re

import torch
from torch import Tensor
from torch.nn import functional as F

from querypose.conversion.files import Conversion, load_tensors
from querypose.conversion.layout import (
    check_tensors,
    closest_configs,
    expected_shapes,
    number_of,
    shape_of,
)
from querypose.errors import UserError

_PREFIX = "backbone.bottom_up."

INDEX_BUFFERS = "relative_position_index, computed from the window"
MASK_BUFFERS = "attn_mask, computed from the size of the image"
_BUFFERS = {r".+\.relative_position_index": INDEX_BUFFERS, r".+\.attn_mask": MASK_BUFFERS}

# the classifier with the norm before it; what detectors and segmenters put on top
_HEADS = r"(?:head|norm|neck|rpn_head|roi_head|bbox_head|mask_head|decode_head|auxiliary_head)\..+"


def to_torchvision(name: str) -> str | None:
    """torchvision's name of an original Swin tensor; None where there is none (heads, buffers)."""
    if match := re.fullmatch(r"patch_embed\.(proj|norm)\.(.+)", name):
        return f"features.0.{'0' if match[1] == 'proj' else '2'}.{match[2]}"
    if match := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", name):
        rest = match[3].replace("mlp.fc1.", "mlp.0.").replace("mlp.fc2.", "mlp.3.")
        return f"features.{1 + 2 * int(match[1])}.{match[2]}.{rest}"
    if match := re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", name):
        return f"features.{2 + 2 * int(match[1])}.{match[2]}"
    return name if re.fullmatch(r"norm\d\..+", name) else None


def from_torchvision(name: str) -> str:
    """The original name of a tensor of torchvision's SwinTransformer; others stay as they are."""
    if match := re.fullmatch(r"features\.0\.([02])\.(.+)", name):
        return f"patch_embed.{'proj' if match[1] == '0' else 'norm'}.{match[2]}"
    if match := re.fullmatch(r"features\.(\d*[13579])\.(\d+)\.(.+)", name):
        rest = match[3].replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        return f"layers.{int(match[1]) // 2}.blocks.{match[2]}.{rest}"
    if match := re.fullmatch(r"features\.(\d*[02468])\.(.+)", name):
        return f"layers.{int(match[1]) // 2 - 1}.downsample.{match[2]}"
    return name


def relative_position_index(window: int) -> Tensor:
    """Which row of the bias table belongs to each pair of places in a window of `window` x `window`, flat."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    down = rows[:, None] - rows[None] + window - 1
    right = columns[:, None] - columns[None] + window - 1
    return (down * (2 * window - 1) + right).flatten()


def window_of(table_rows: int) -> int:
    """The window that a table of (2 * window - 1) ** 2 relative positions belongs to.

    Raises:
        UserError: no window has that many.
    """
    side = round(table_rows**0.5)
    if side * side != table_rows or side % 2 == 0:
        raise UserError(f"a relative position table of {table_rows} rows belongs to no square window")
    return (side + 1) // 2


def resize_table(table: Tensor, window: int) -> Tensor:
    """A table of relative position biases ((2 * w - 1) ** 2, heads) for another window, bicubic."""
    before, after = 2 * window_of(len(table)) - 1, 2 * window - 1
    grid = table.float().t().reshape(1, -1, before, before)
    resized = F.interpolate(grid, size=(after, after), mode="bicubic", align_corners=False)
    return resized.flatten(2)[0].t().contiguous().to(table.dtype)


def swin_settings(state_dict: dict[str, Tensor]) -> dict[str, object]:
    """Config values that the tensors of a Swin backbone, in the original naming, tell by their shapes."""
    stages = range(number_of(state_dict, r"layers\.(\d+)\..+"))
    table = r"layers\.{}\.blocks\.\d+\.attn\.relative_position_bias_table"
    return {
        "MODEL.BACKBONE.NAME": "build_swin_fpn_backbone",
        "MODEL.SWIN.EMBED_DIM": shape_of(state_dict, r"patch_embed\.proj\.weight")[0],
        "MODEL.SWIN.DEPTHS": [number_of(state_dict, rf"layers\.{stage}\.blocks\.(\d+)\..+") for stage in stages],
        "MODEL.SWIN.NUM_HEADS": [shape_of(state_dict, table.format(stage))[1] for stage in stages],
        "MODEL.SWIN.WINDOW_SIZE": window_of(shape_of(state_dict, table.format(r"\d+"))[0]),
    }


def convert_swin_checkpoint(path: str) -> Conversion:
    """Read an original Swin checkpoint (classifier, detector or segmenter) as weights of our backbone.

    Any head is dropped; relative position tables are interpolated where the config has another window.

    Raises:
        UserError: a file that is missing, holds code, or is not exactly a Swin backbone.
    """
    loaded, dropped = load_tensors(path)
    inner = any(name.startswith("backbone.patch_embed.") for name in loaded)
    theirs: dict[str, Tensor] = {}
    for name, tensor in loaded.items():
        bare = name.removeprefix("backbone.") if inner else name
        reasons = [reason for pattern, reason in _BUFFERS.items() if re.fullmatch(pattern, bare)]
        if re.fullmatch(_HEADS, bare):
            reasons = ["the head, which a backbone goes without"]
        if reasons:
            dropped.setdefault(reasons[0], []).append(name)
        else:
            theirs[bare] = tensor
    if "patch_embed.proj.weight" not in theirs:
        raise UserError(f"the checkpoint '{path}' is no Swin in the original naming: it lacks patch_embed.proj.weight")

    settings = swin_settings(theirs)
    window = settings.pop("MODEL.SWIN.WINDOW_SIZE")
    configs, overrides = closest_configs(settings)
    wanted = expected_shapes(configs[0], overrides, _PREFIX)
    state_dict, notes = {}, []
    resized = 0
    for ours, shape in wanted.items():
        name = from_torchvision(ours)
        if ours.endswith("relative_position_bias_table") and name in theirs:
            target = window_of(shape[0])
            if len(theirs[name]) != shape[0]:
                theirs[name] = resize_table(theirs[name], target)
                resized += 1
        if ours.endswith("relative_position_index"):
            state_dict[_PREFIX + ours] = relative_position_index(round(shape[0] ** 0.25))
        elif name in theirs:
            state_dict[_PREFIX + ours] = theirs[name]
    expected = {
        from_torchvision(ours): shape for ours, shape in wanted.items() if not ours.endswith("relative_position_index")
    }
    fresh = [name for name in expected if re.fullmatch(r"norm\d\..+", name) and name not in theirs]
    check_tensors(path, theirs, {name: shape for name, shape in expected.items() if name not in fresh})
    if resized:
        notes.append(f"interpolated {resized} relative position tables from window {window} to {target}")
    reasons = {"norms of the four outputs, which the file lacks": [_PREFIX + name for name in fresh]}
    return Conversion(state_dict, dropped, reasons if fresh else {}, configs, overrides, notes)
