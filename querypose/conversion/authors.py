"""The authors' checkpoints in our naming; only names and the stacking of per-part layers differ."""

import re

import torch
from detectron2.data import MetadataCatalog
from torch import Tensor

from querypose.errors import UserError
from querypose.modeling.part_division import PART_DIVISION_REGISTRY, build_part_division
from querypose.skeleton import Skeleton

_POSE = r"head\.pose_head_series\.(\d+)\."


def _stage_rules(prefix: str, ours: str, names: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rules for `head.<prefix>.<stage>.<their name>.<rest>`."""
    return [(rf"head\.{prefix}\.(\d+)\.{theirs}\.(.+)", rf"decoder.{ours}.\1.{name}.\2") for theirs, name in names]


def _interaction(theirs: str, ours: str) -> list[tuple[str, str]]:
    pairs = [("dynamic_layer", "generator"), ("out_layer", "output"), ("norm1", "norm1"), ("norm2", "norm2")]
    return [(rf"{theirs}\.{a}", f"{ours}.{b}") for a, b in [*pairs, ("norm3", "norm3")]]


# (pattern of the authors' name, ours); the first that matches the whole name counts
_RULES = [
    (r"backbone\.(.+)", r"backbone.\1"),
    (r"init_proposal_features\.(.+)", r"decoder.instance_queries.\1"),
    (r"init_proposal_boxes\.(.+)", r"decoder.proposal_boxes.\1"),
    (r"part_query\.(.+)", r"decoder.part_queries.\1"),
    *_stage_rules(
        "head_series",
        "box_stages",
        [
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
        ],
    ),
    *_stage_rules(
        "pose_head_series",
        "keypoint_stages",
        [
            *_interaction("pose_decoder_inst_interact", "instance_interaction"),
            ("inst_convs", "tower"),
            ("inst_norm", "instance_norm"),
            ("linear1", "instance_feedforward.linear1"),
            ("linear2", "instance_feedforward.linear2"),
            ("norm2", "instance_feedforward.norm"),
            (r"part_embed_generator\.upsample", "part_embedding.upsample"),
            (r"part_embed_generator\.LSA_conv", "part_embedding.attention"),
            (r"part_embed_generator\.fc", "part_embedding.project"),
            (r"updater\.fc1", "part_update.reduce"),
            (r"updater\.norm_fc1", "part_update.norm"),
            (r"updater\.fc2", "part_update.expand"),
            ("kps_self_attn", "self_attention.attention"),
            ("self_attn_norm", "self_attention.norm"),
            ("linear1_l", "feedforward.linear1"),
            ("linear2_l", "feedforward.linear2"),
            ("norm2_l", "feedforward.norm"),
        ],
    ),
    (r"criterion\.flow\.flow\.mask", "criterion.flow.masks"),
    (r"criterion\.flow\.flow\.s\.(.+)", r"criterion.flow.scale.\1"),
    (r"criterion\.flow\.flow\.t\.(.+)", r"criterion.flow.translate.\1"),
]

# layers that the authors keep per part, (pattern, name of our stacked tensor)
_PER_PART = [
    (rf"{_POSE}residual_filter\.(\d+)\.(weight|bias)", "instance_to_part.{kind}"),
    (rf"{_POSE}fc_coord\.(\d+)\.linear\.(weight|bias)", "heads.coordinate_{kind}"),
    (rf"{_POSE}fc_sigma\.(\d+)\.linear\.(weight|bias)", "heads.sigma_{kind}"),
]

# tensors without a function: a third gate layer that is never called, image statistics that the config holds
DROPPED = (rf"{_POSE}updater\.(fc3|norm_fc3)\..+", r"pixel_(mean|std)")


def rename(name: str) -> str | None:
    """Our name of an authors' tensor that is copied as it is; None where there is no such tensor."""
    for pattern, ours in _RULES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None


def per_part_slot(name: str) -> tuple[str, int] | None:
    """Our stacked tensor's name and the part's index, of a layer that the authors keep per part; else None."""
    for pattern, ours in _PER_PART:
        if match := re.fullmatch(pattern, name):
            stage, part, kind = match.groups()
            return f"decoder.keypoint_stages.{stage}.{ours.format(kind=kind)}", int(part)
    return None


def load_tensors(path: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint, with or without a `model` around it, without running any code in the file.

    Raises:
        UserError: a file that is missing, holds code, or no state dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"the checkpoint '{path}' does not exist") from error
    except Exception as error:  # torch raises many kinds for damaged files
        reason = str(error).splitlines()[0]
        raise UserError(f"the checkpoint '{path}' cannot be read as plain tensors: {reason}") from error
    state_dict = content.get("model", content) if isinstance(content, dict) else None
    if not state_dict or not all(isinstance(tensor, Tensor) for tensor in state_dict.values()):
        raise UserError(f"the checkpoint '{path}' holds no state dict of tensors")
    return state_dict


def convert_authors_checkpoint(path: str) -> tuple[dict[str, Tensor], list[str]]:
    """Read an authors' checkpoint without running any code in it, and convert it.

    The part division is found from the sizes of the part heads; the skeleton is COCO's, the only one they know.

    Raises:
        UserError: a file that is missing, holds code, or is no QueryPose.
    """
    state_dict = load_tensors(path)
    sizes = []
    while (name := f"head.pose_head_series.0.fc_coord.{len(sizes)}.linear.weight") in state_dict:
        sizes.append(len(state_dict[name]) // 2)
    skeleton = Skeleton.from_metadata(MetadataCatalog.get("keypoints_coco_2017_train"))
    for division, _ in PART_DIVISION_REGISTRY:
        part_of_keypoint = build_part_division(skeleton, division)
        if [part_of_keypoint.count(part) for part in range(max(part_of_keypoint) + 1)] == sizes:
            return convert_authors_weights(state_dict, part_of_keypoint)
    raise UserError(f"the checkpoint '{path}' has parts of {sizes} keypoints, which is no part division of Figure 4")


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
        if any(re.fullmatch(pattern, name) for pattern in DROPPED):
            dropped.append(name)
        elif slot := per_part_slot(name):
            stacks.setdefault(slot[0], {})[slot[1]] = tensor
        elif ours := rename(name):
            converted[ours] = tensor
        else:
            unknown.append(name)
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise UserError(f"this is no checkpoint of the authors' QueryPose: it holds {shown}")

    for name, parts in stacks.items():
        ordered = [parts[index] for index in sorted(parts)]
        per_keypoint = ".heads." in name
        converted[name] = _by_keypoint(ordered, part_of_keypoint) if per_keypoint else torch.stack(ordered)
    return converted, dropped


def _by_keypoint(parts: list[Tensor], part_of_keypoint: list[int]) -> Tensor:
    """Rows (x, y of a part's keypoints) of every part -> (K, 2, ...) in the skeleton's order."""
    taken = [0] * len(parts)
    rows = []
    for part in part_of_keypoint:
        start = 2 * taken[part]
        rows.append(parts[part][start : start + 2])
        taken[part] += 1
    if any(2 * count != len(part) for count, part in zip(taken, parts, strict=True)):
        sizes = [len(part) // 2 for part in parts]
        raise UserError(f"the checkpoint's parts hold {sizes} keypoints, which is not the part division of the config")
    return torch.stack(rows)
