"""The authors' checkpoints: in our naming, per-part layers stacked, and with the config that their shapes belong to."""

import re
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from torch import Tensor

from querypose.conversion.backbones import SWIN_BUFFERS, hrnet_settings, index_buffers, swin_settings, to_torchvision
from querypose.conversion.layout import BOTTOM_UP, Conversion, Layout, load_tensors, number_of, shape_of, split_off
from querypose.errors import UserError
from querypose.modeling.part_division import PART_DIVISION_REGISTRY, build_part_division
from querypose.skeleton import Skeleton

# patterns of how the names of a stage's tensors begin
BOX = r"head\.head_series\.\d+"
POSE = r"head\.pose_head_series\.\d+"

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
    rf"{POSE}\.updater\.(fc3|norm_fc3)\..+": "a third gate layer (updater.fc3, updater.norm_fc3) that is never called",
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
    """Read an authors' checkpoint of any backbone and variant, found from its shapes; the skeleton is COCO's."""
    loaded, dropped = load_tensors(path, {})
    if not any(re.match(rf"{POSE}\.fc_coord\.", name) for name in loaded):
        raise UserError(f"the checkpoint {path} is not the authors' QueryPose: it has no keypoint heads of theirs")
    division, part_of_keypoint = find_division(loaded, path)
    settings = {**backbone_settings(loaded, path), **head_settings(loaded)}
    settings["MODEL.QUERYPOSE.PART_DIVISION"] = None if division == "rigid" else division
    layout = Layout.closest(settings)
    tensors, without_function = convert_authors_weights(loaded, part_of_keypoint)
    tensors |= index_buffers(layout.shapes)
    conversion = layout.conversion(path, tensors, {**dropped, **without_function})
    conversion.configs = conversion.configs[:1]
    return conversion


def convert_authors_weights(
    state_dict: dict[str, Tensor], part_of_keypoint: list[int]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Rename and stack a whole state dict of theirs; also returns what was dropped: what it is -> names.

    part_of_keypoint: the index of each keypoint's part; their heads hold a part's keypoints in the skeleton's order.
    """
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


def find_division(state_dict: Mapping[str, Tensor], path: str) -> tuple[str, list[int]]:
    """The part division, by name and as the part of each keypoint, that the sizes of the part heads belong to."""
    head = rf"{POSE}\.fc_(?:coord|sigma)\.{{}}\.linear\.weight"
    number = number_of(state_dict, head.format(r"(\d+)"))
    sizes = [shape_of(state_dict, head.format(part))[0] // 2 for part in range(number)]
    skeleton = Skeleton.from_metadata(MetadataCatalog.get("keypoints_coco_2017_train"))
    for division, _ in PART_DIVISION_REGISTRY:
        part_of_keypoint = build_part_division(skeleton, division)
        if np.bincount(part_of_keypoint).tolist() == sizes:
            return division, part_of_keypoint
    raise UserError(f"the checkpoint {path} has parts of {sizes} keypoints, which is not a part division of Figure 4")


def head_settings(state_dict: Mapping[str, Tensor]) -> dict[str, object]:
    """Config values of the decoder, but for what shapes do not tell: attention heads, the light variant's regions."""
    num_queries, dim = shape_of(state_dict, r"init_proposal_features\.weight")
    tokens = shape_of(state_dict, rf"{BOX}\.inst_interact\.out_layer\.weight")[1] // dim
    full = any(".pose_decoder_inst_interact." in name for name in state_dict)
    settings: dict[str, object] = {
        "MODEL.FPN.OUT_CHANNELS": dim,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": round(tokens**0.5),
        "MODEL.QUERYPOSE.VARIANT": "full" if full else "light",
        "MODEL.QUERYPOSE.NUM_QUERIES": num_queries,
        "MODEL.QUERYPOSE.NUM_STAGES": number_of(state_dict, r"head\.(?:pose_)?head_series\.(\d+)\..+"),
        "MODEL.QUERYPOSE.HIDDEN_DIM": dim,
        "MODEL.QUERYPOSE.PART_DIM": shape_of(state_dict, r"part_query\.weight")[1],
        "MODEL.QUERYPOSE.FEEDFORWARD_DIM": shape_of(state_dict, rf"{BOX}\.linear1\.weight")[0],
        "MODEL.QUERYPOSE.DYNAMIC_DIM": shape_of(state_dict, rf"{BOX}\.inst_interact\.norm1\.weight")[0],
        "MODEL.QUERYPOSE.NUM_TOWER_LAYERS": (number_of(state_dict, rf"{POSE}\.inst_convs\.(\d+)\..+") + 1) // 2,
        "MODEL.QUERYPOSE.TOWER_DIM": shape_of(state_dict, rf"{POSE}\.inst_convs\.0\.weight")[0],
    }
    if full:
        tokens = shape_of(state_dict, rf"{POSE}\.pose_decoder_inst_interact\.out_layer\.weight")[1] // dim
        settings["MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION"] = round(tokens**0.5)
    return settings


def backbone_settings(state_dict: Mapping[str, Tensor], path: str) -> dict[str, object]:
    """Config values of the backbone and its neck."""
    bottom_up = {name.removeprefix(BOTTOM_UP): t for name, t in state_dict.items() if name.startswith(BOTTOM_UP)}
    if "transition1.0.0.weight" in bottom_up:
        neck = "lateral" if any(name.startswith("backbone.lateral_conv.") for name in state_dict) else "pooled"
        return {**hrnet_settings(bottom_up), "MODEL.HRNET.NECK": neck}
    if "patch_embed.proj.weight" in bottom_up:
        return swin_settings(bottom_up)
    blocks = tuple(number_of(bottom_up, rf"res{stage}\.(\d+)\..+") for stage in (2, 3, 4, 5))
    bottleneck = "res2.0.conv3.weight" in bottom_up
    depths = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50 if bottleneck else 34, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
    if blocks not in depths:
        raise UserError(f"the checkpoint {path} has a backbone that is neither Detectron2's ResNet nor HRNet nor Swin")
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.DEPTH": depths[blocks],
        "MODEL.RESNETS.RES2_OUT_CHANNELS": shape_of(bottom_up, rf"res2\.0\.conv{3 if bottleneck else 2}\.weight")[0],
        "MODEL.RESNETS.NORM": "BN" if any(name.endswith("num_batches_tracked") for name in bottom_up) else "FrozenBN",
    }
