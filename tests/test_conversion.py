"""The authors' checkpoints become ours: renamed, stacked, and nothing invented."""

import re

import pytest
import torch
from tiny_model import tiny_config, tiny_model

from querypose.conversion import convert_authors_checkpoint, convert_authors_weights
from querypose.data import skeleton_of
from querypose.errors import UserError
from querypose.modeling import build_part_division

# ours -> the authors', for everything that is not kept per part
BOX_STAGE = {
    "self_attention.attention": "self_attn",
    "self_attention.norm": "norm1",
    "interaction.generator": "inst_interact.dynamic_layer",
    "interaction.output": "inst_interact.out_layer",
    "interaction.": "inst_interact.",
    "interaction_norm": "norm2",
    "feedforward.linear": "linear",
    "feedforward.norm": "norm3",
    "class_branch": "cls_module",
    "box_branch": "reg_module",
    "class_logit": "class_logits",
    "box_delta": "bboxes_delta",
}
KEYPOINT_STAGE = {
    "tower": "inst_convs",
    "instance_interaction.generator": "pose_decoder_inst_interact.dynamic_layer",
    "instance_interaction.output": "pose_decoder_inst_interact.out_layer",
    "instance_interaction.": "pose_decoder_inst_interact.",
    "instance_norm": "inst_norm",
    "instance_feedforward.linear": "linear",
    "instance_feedforward.norm": "norm2",
    "part_embedding.upsample": "part_embed_generator.upsample",
    "part_embedding.attention": "part_embed_generator.LSA_conv",
    "part_embedding.project": "part_embed_generator.fc",
    "part_update.reduce": "updater.fc1",
    "part_update.norm": "updater.norm_fc1",
    "part_update.expand": "updater.fc2",
    "self_attention.attention": "kps_self_attn",
    "self_attention.norm": "self_attn_norm",
    "feedforward.linear1": "linear1_l",
    "feedforward.linear2": "linear2_l",
    "feedforward.norm": "norm2_l",
}
ELSEWHERE = {
    "decoder.instance_queries": "init_proposal_features",
    "decoder.proposal_boxes": "init_proposal_boxes",
    "decoder.part_queries": "part_query",
    "criterion.keypoint_loss.flow.masks": "criterion.flow.flow.mask",
    "criterion.keypoint_loss.flow.scale": "criterion.flow.flow.s",
    "criterion.keypoint_loss.flow.translate": "criterion.flow.flow.t",
    "backbone": "backbone",
}


def replace_start(name, table):
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    raise AssertionError(f"this table lacks {name}")


def as_the_authors_would_save(state_dict, part_of_keypoint):
    """Our state dict in their naming, heads and part layers apart, with the tensors that have no function."""
    theirs = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    for name, tensor in state_dict.items():
        match = re.fullmatch(r"decoder\.(box|keypoint)_stages\.(\d+)\.(.+)", name)
        if match is None:
            theirs[replace_start(name, ELSEWHERE)] = tensor
            continue
        kind, stage, rest = match.groups()
        if kind == "box":
            theirs[f"head.head_series.{stage}.{replace_start(rest, BOX_STAGE)}"] = tensor
            continue
        prefix = f"head.pose_head_series.{stage}"
        theirs[f"{prefix}.updater.fc3.weight"] = torch.zeros(2, 2)
        theirs[f"{prefix}.updater.norm_fc3.bias"] = torch.zeros(2)
        if rest.startswith("heads."):
            head, which = {"coordinate": "fc_coord", "sigma": "fc_sigma"}[rest[6:].split("_")[0]], rest.split("_")[1]
            for part in range(max(part_of_keypoint) + 1):
                mine = [index for index, other in enumerate(part_of_keypoint) if other == part]
                theirs[f"{prefix}.{head}.{part}.linear.{which}"] = tensor[mine].flatten(0, 1)
        elif rest.startswith("instance_to_part."):
            for part, matrix in enumerate(tensor):
                theirs[f"{prefix}.residual_filter.{part}.{rest.split('.')[1]}"] = matrix
        else:
            theirs[f"{prefix}.{replace_start(rest, KEYPOINT_STAGE)}"] = tensor
    return theirs


@pytest.fixture(scope="module", params=["light", "full"])
def pair(request):
    """(our model, its weights as the authors would save them, the part of each keypoint)."""
    model = tiny_model(request.param)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    division = build_part_division(skeleton_of(tiny_config()), "rigid")
    return model, as_the_authors_would_save(model.state_dict(), division), division


def test_everything_comes_back(pair):
    model, theirs, division = pair
    converted, dropped = convert_authors_weights(theirs, division)
    state_dict = model.state_dict()
    assert converted.keys() == state_dict.keys()
    for name, tensor in state_dict.items():
        assert torch.equal(converted[name], tensor), name
    model.load_state_dict(converted, strict=True)
    assert {name for names in dropped.values() for name in names} == {
        "pixel_mean",
        "pixel_std",
        *(f"head.pose_head_series.{s}.updater.{name}" for s in (0, 1) for name in ("fc3.weight", "norm_fc3.bias")),
    }


def test_what_is_no_querypose_of_this_division(pair):
    _, theirs, rigid = pair
    skeleton = skeleton_of(tiny_config())

    def refused(words, weights, division=rigid):
        with pytest.raises(UserError, match=words):
            convert_authors_weights(weights, division)

    foreign = {"roi_heads.box.weight": torch.ones(1), "head.other.1": torch.ones(1)}
    refused("it holds roi_heads.box.weight, head.other.1$", {**theirs, **foreign})
    refused("layer4.weight and 4 more", {f"layer{index}.weight": torch.ones(1) for index in range(9)})
    for name in ("per_keypoint", "joined_head", "head_and_limbs"):
        words = r"parts hold \[5, 2, 2, 2, 2, 2, 2\] keypoints.*not the part division"
        refused(words, theirs, build_part_division(skeleton, name))
    refused("parts hold", {name: tensor for name, tensor in theirs.items() if ".fc_coord.3." not in name})
    odd = {"head.pose_head_series.0.residual_filter.3.weight": torch.ones(2, 3)}
    refused("parts of .*instance_to_part.weight in the checkpoint have different shapes", {**theirs, **odd})


def test_a_file_of_another_model(save):
    with pytest.raises(UserError, match="is not the authors' QueryPose: it has no keypoint heads"):
        convert_authors_checkpoint(save({"layer1.weight": torch.ones(2)}))
