"""The authors' checkpoints in our naming; only names and the stacking of per-part layers differ."""

import re

import torch
from torch import Tensor

from querypose.conversion.authors_layout import BOX, POSE, backbone_settings, find_division, head_settings
from querypose.conversion.files import Conversion, load_tensors
from querypose.conversion.layout import BOTTOM_UP, Layout, enumerate_names
from querypose.conversion.swin import BUFFERS, index_buffers, to_torchvision
from querypose.errors import UserError


def _interaction(theirs: str, ours: str) -> list[tuple[str, str]]:
    pairs = [("dynamic_layer", "generator"), ("out_layer", "output"), ("norm1", "norm1"), ("norm2", "norm2")]
    return [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in [*pairs, ("norm3", "norm3")]]


# what comes before a tensor's last name: (the authors', ours); * is the number of a stage or of a coupling
_NAMES = [
    ("init_proposal_features", "decoder.instance_queries"),
    ("init_proposal_boxes", "decoder.proposal_boxes"),
    ("part_query", "decoder.part_queries"),
    *(
        (f"{BOX}.*.{theirs}", f"decoder.box_stages.*.{ours}")
        for theirs, ours in [
            *_interaction("inst_interact", "interaction"),
            ("self_attn", "self_attention.attention"),
            ("norm1", "self_attention.norm"),
            ("norm2", "interaction_norm"),
            ("linear1", "feedforward.linear1"),
            ("linear2", "feedforward.linear2"),
            ("norm3", "feedforward.norm"),
            ("cls_module", "class_branch"),
            ("reg_module", "box_branch"),
            ("class_logits", "class_logit"),
            ("bboxes_delta", "box_delta"),
        ]
    ),
    *(
        (f"{POSE}.*.{theirs}", f"decoder.keypoint_stages.*.{ours}")
        for theirs, ours in [
            *_interaction("pose_decoder_inst_interact", "instance_interaction"),
            ("inst_convs", "tower"),
            ("inst_norm", "instance_norm"),
            ("linear1", "instance_feedforward.linear1"),
            ("linear2", "instance_feedforward.linear2"),
            ("norm2", "instance_feedforward.norm"),
            ("part_embed_generator.upsample", "part_embedding.upsample"),
            ("part_embed_generator.LSA_conv", "part_embedding.attention"),
            ("part_embed_generator.fc", "part_embedding.project"),
            ("updater.fc1", "part_update.reduce"),
            ("updater.norm_fc1", "part_update.norm"),
            ("updater.fc2", "part_update.expand"),
            ("kps_self_attn", "self_attention.attention"),
            ("self_attn_norm", "self_attention.norm"),
            ("linear1_l", "feedforward.linear1"),
            ("linear2_l", "feedforward.linear2"),
            ("norm2_l", "feedforward.norm"),
        ]
    ),
    ("criterion.flow.flow.s", "criterion.keypoint_loss.flow.scale"),
    ("criterion.flow.flow.t", "criterion.keypoint_loss.flow.translate"),
    ("criterion.flow.flow.mask", "criterion.keypoint_loss.flow.masks"),
]

# layers that the authors keep per part: their name -> our stacked tensor
_PER_PART = {
    "residual_filter.{part}": "instance_to_part.",
    "fc_coord.{part}.linear": "heads.coordinate_",
    "fc_sigma.{part}.linear": "heads.sigma_",
}

# tensors without a function: pattern -> what they are
_DROPPED = {
    rf"{re.escape(POSE)}\.\d+\.updater\.(fc3|norm_fc3)\..+": "a third gate layer (updater.fc3, updater.norm_fc3) that "
    "is never called",
    r"backbone\.fpn_conv\.4\..+": "a fifth level's convolution, whose map no stage reads",
    r"backbone\.lateral_conv\.0\..+": "a convolution of the finest branch that is never called",
    **{re.escape(BOTTOM_UP) + pattern: reason for pattern, reason in BUFFERS.items()},
    r"pixel_(mean|std)": "image statistics, which the config holds",
}


def rename(name: str) -> str | None:
    """Our name of an authors' tensor that is copied as it is; None where there is no such tensor."""
    if name.startswith(BOTTOM_UP):
        return BOTTOM_UP + to_torchvision(name.removeprefix(BOTTOM_UP))
    if name.startswith("backbone."):
        return name
    for theirs, ours in _NAMES:
        pattern = re.escape(theirs).replace(r"\*", r"(\d+)")
        if match := re.fullmatch(rf"{pattern}(\..+)?", name):
            *stage, rest = match.groups()
            return (ours.replace("*", stage[0]) if stage else ours) + (rest or "")
    return None


def per_part_slot(name: str) -> tuple[str, int] | None:
    """Our stacked tensor's name and the part's index, of a layer that the authors keep per part; else None."""
    for theirs, ours in _PER_PART.items():
        pattern = re.escape(theirs).replace(r"\{part\}", r"(\d+)")
        if match := re.fullmatch(rf"{re.escape(POSE)}\.(\d+)\.{pattern}\.(weight|bias)", name):
            stage, part, kind = match.groups()
            return f"decoder.keypoint_stages.{stage}.{ours}{kind}", int(part)
    return None


def convert_authors_checkpoint(path: str) -> Conversion:
    """Read an authors' checkpoint of any backbone and variant without running any code in it, and convert it.

    Everything is found from the tensors' shapes; the skeleton is COCO's, the only one they know.

    Raises:
        UserError: a file that is missing, holds code, or does not hold exactly the tensors of a QueryPose.
    """
    loaded, dropped = load_tensors(path)
    if not any(name.startswith(f"{POSE}.") and ".fc_coord." in name for name in loaded):
        raise UserError(
            f"the checkpoint {path} is not the authors' QueryPose: it has no keypoint heads in their naming"
        )
    division, part_of_keypoint = find_division(loaded, path)
    settings = {**backbone_settings(loaded, path), **head_settings(loaded)}
    settings["MODEL.QUERYPOSE.PART_DIVISION"] = None if division == "rigid" else division
    layout = Layout.closest(settings)
    state_dict, left_out = convert_authors_weights(loaded, part_of_keypoint)
    for name in left_out:
        dropped.setdefault(_reason_to_drop(name) or "", []).append(name)
    conversion = layout.conversion(path, {**state_dict, **index_buffers(layout.shapes)}, dropped)
    conversion.configs = conversion.configs[:1]
    return conversion


def convert_authors_weights(
    state_dict: dict[str, Tensor], part_of_keypoint: list[int]
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename and stack a whole state dict.

    Args:
        state_dict: the authors' tensors by their names.
        part_of_keypoint: for each keypoint the index of its part; the authors' heads hold the keypoints of a part
            in the skeleton's order.

    Returns:
        our state dict, and the names that were dropped because they carry no function.

    Raises:
        UserError: tensors that are no QueryPose's.
    """
    converted, dropped, unknown = {}, [], []
    stacks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state_dict.items():
        if _reason_to_drop(name):
            dropped.append(name)
        elif slot := per_part_slot(name):
            stacks.setdefault(slot[0], {})[slot[1]] = tensor
        elif ours := rename(name):
            converted[ours] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"this is no checkpoint of the authors' QueryPose: it holds {enumerate_names(unknown, 5)}")

    for name, parts in stacks.items():
        ordered = [parts[index] for index in sorted(parts)]
        if len({part.shape[1:] if ".heads." in name else part.shape for part in ordered}) > 1:
            raise UserError(f"the parts of {name} in the checkpoint have different shapes; convert an unchanged one")
        converted[name] = _by_keypoint(ordered, part_of_keypoint) if ".heads." in name else torch.stack(ordered)
    return converted, dropped


def _reason_to_drop(name: str) -> str | None:
    return next((reason for pattern, reason in _DROPPED.items() if re.fullmatch(pattern, name)), None)


def _by_keypoint(parts: list[Tensor], part_of_keypoint: list[int]) -> Tensor:
    """Rows (x, y of a part's keypoints) of every part -> (K, 2, ...) in the skeleton's order."""
    sizes = [len(part) // 2 for part in parts]
    if sizes != [part_of_keypoint.count(part) for part in range(max(part_of_keypoint) + 1)]:
        raise UserError(f"the checkpoint's parts hold {sizes} keypoints, which is not the part division of the config")
    taken = [0] * len(parts)
    rows = []
    for part in part_of_keypoint:
        start = 2 * taken[part]
        rows.append(parts[part][start : start + 2])
        taken[part] += 1
    return torch.stack(rows)
