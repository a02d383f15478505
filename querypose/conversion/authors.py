"""The authors' checkpoints: in our naming, per-part layers stacked, and with the config that they belong to."""

import re
from collections import defaultdict

import torch
from detectron2.data import MetadataCatalog
from torch import Tensor

from querypose.conversion.backbones import SWIN_BUFFERS, backbone_settings, index_buffers, to_torchvision
from querypose.conversion.layout import BOTTOM_UP, Conversion, Layout, split_off
from querypose.errors import UserError
from querypose.modeling.part_division import build_part_division
from querypose.safe_loading import find_weights, read_checkpoint
from querypose.skeleton import Skeleton

# how names begin, the authors' -> ours; the first that fits counts
BOX_STAGE = {
    "inst_interact.dynamic_layer": "interaction.generator",
    "inst_interact.out_layer": "interaction.output",
    "inst_interact": "interaction",
    "self_attn": "self_attention.attention",
    "norm1": "self_attention.norm",
    "norm2": "interaction_norm",
    "linear1": "feedforward.linear1",
    "linear2": "feedforward.linear2",
    "norm3": "feedforward.norm",
    "cls_module": "class_branch",
    "reg_module": "box_branch",
    "class_logits": "class_logit",
    "bboxes_delta": "box_delta",
}
KEYPOINT_STAGE = {
    "pose_decoder_inst_interact.dynamic_layer": "instance_interaction.generator",
    "pose_decoder_inst_interact.out_layer": "instance_interaction.output",
    "pose_decoder_inst_interact": "instance_interaction",
    "inst_convs": "tower",
    "inst_norm": "instance_norm",
    "linear1": "instance_feedforward.linear1",
    "linear2": "instance_feedforward.linear2",
    "norm2": "instance_feedforward.norm",
    "part_embed_generator.upsample": "part_embedding.upsample",
    "part_embed_generator.LSA_conv": "part_embedding.attention",
    "part_embed_generator.fc": "part_embedding.project",
    "updater.fc1": "part_update.reduce",
    "updater.norm_fc1": "part_update.norm",
    "updater.fc2": "part_update.expand",
    "kps_self_attn": "self_attention.attention",
    "self_attn_norm": "self_attention.norm",
    "linear1_l": "feedforward.linear1",
    "linear2_l": "feedforward.linear2",
    "norm2_l": "feedforward.norm",
}
ELSEWHERE = {
    "init_proposal_features": "decoder.instance_queries",
    "init_proposal_boxes": "decoder.proposal_boxes",
    "part_query": "decoder.part_queries",
    "criterion.flow.flow.s": "criterion.keypoint_loss.flow.scale",
    "criterion.flow.flow.t": "criterion.keypoint_loss.flow.translate",
    "criterion.flow.flow.mask": "criterion.keypoint_loss.flow.masks",
    "backbone": "backbone",
}

# layers that the authors keep per part: their name -> our stacked tensor
_PER_PART = {"residual_filter": "instance_to_part.", "fc_coord": "heads.coordinate_", "fc_sigma": "heads.sigma_"}

# tensors without a function: pattern -> what they are
_DROPPED = {
    r".+\.updater\.(fc3|norm_fc3)\..+": "a third gate layer (updater.fc3, updater.norm_fc3) that is never called",
    r"backbone\.fpn_conv\.4\..+": "a fifth level's convolution, whose map no stage reads",
    r"backbone\.lateral_conv\.0\..+": "a convolution of the finest branch that is never called",
    **{re.escape(BOTTOM_UP) + pattern: reason for pattern, reason in SWIN_BUFFERS.items()},
    r"pixel_(mean|std)": "image statistics, which the config holds",
}


def rename(name: str) -> tuple[str, int | None]:
    """Our name of an authors' tensor, others as they are, and the part's index where theirs is of one part."""
    if name.startswith(BOTTOM_UP):
        return BOTTOM_UP + to_torchvision(name.removeprefix(BOTTOM_UP)), None
    table, prefix, rest = ELSEWHERE, "", name
    if match := re.fullmatch(r"head\.(pose_)?head_series\.(\d+)\.(.+)", name):
        is_pose, stage, rest = match.groups()
        table = KEYPOINT_STAGE if is_pose else BOX_STAGE
        prefix = f"decoder.{'keypoint' if is_pose else 'box'}_stages.{stage}."
    if match := re.fullmatch(r"(residual_filter|fc_coord|fc_sigma)\.(\d+)\.(?:linear\.)?(weight|bias)", rest):
        layer, part, kind = match.groups()
        return f"{prefix}{_PER_PART[layer]}{kind}", int(part)
    for theirs, ours in table.items():
        if f"{rest}.".startswith(f"{theirs}."):
            return prefix + ours + rest.removeprefix(theirs), None
    return name, None


def convert_authors_checkpoint(path: str) -> Conversion:
    """Read an authors' checkpoint of any backbone, variant and number of queries; the skeleton is COCO's."""
    theirs = find_weights(read_checkpoint(path), path)
    if "init_proposal_features.weight" not in theirs:
        raise UserError(f"the checkpoint {path} is not the authors' QueryPose: it lacks init_proposal_features.weight")
    bottom_up = {name.removeprefix(BOTTOM_UP): t for name, t in theirs.items() if name.startswith(BOTTOM_UP)}
    full = any(".pose_decoder_inst_interact." in name for name in theirs)
    settings = {
        **backbone_settings(bottom_up),
        "MODEL.QUERYPOSE.VARIANT": "full" if full else "light",
        "MODEL.QUERYPOSE.NUM_QUERIES": len(theirs["init_proposal_features.weight"]),
    }
    layout = Layout.closest(settings)
    tensors, dropped = convert_authors_weights(theirs)
    return layout.conversion(path, {**tensors, **index_buffers(layout.tensors)}, dropped)


def convert_authors_weights(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Rename and stack a whole state dict of theirs; also returns what was dropped: what it is -> names."""
    # their heads hold a part's keypoints in the skeleton's order
    skeleton = Skeleton.from_metadata(MetadataCatalog.get("keypoints_coco_2017_train"))
    part_of_keypoint = build_part_division(skeleton, "rigid")
    kept, dropped = split_off(state_dict, _DROPPED)
    converted: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in kept.items():
        ours, part = rename(name)
        if part is None:
            converted[ours] = tensor
        else:
            stacks[ours][part] = tensor
    for name, parts in stacks.items():
        if len(parts) <= max(part_of_keypoint):  # `Layout.conversion` reports it as missing
            continue
        ordered = [parts[index] for index in sorted(parts)]
        if ".heads." in name:  # rows x, y of a part's keypoints -> (K, 2, ...) in the skeleton's order
            keypoints = [iter(part.unflatten(0, (-1, 2))) for part in ordered]
            ordered = [next(keypoints[part]) for part in part_of_keypoint]
        converted[name] = torch.stack(ordered)
    return converted, dropped
