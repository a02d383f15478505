"""The pyramid of every backbone, and activation checkpointing: the same numbers in less memory."""

import copy

import pytest
import torch
from detectron2.modeling import build_backbone
from test_timm_backbone import MODELS
from tiny_model import tiny_config, tiny_model
from torch import nn

from querypose.errors import UserError
from querypose.modeling.backbones.checkpointing import checkpoint_blocks, find_blocks
from querypose.modeling.backbones.timm_models import TimmBackbone
from querypose.predictor import load_weights

RESNET = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.NORM", "BN"]
SWIN = ["MODEL.SWIN.EMBED_DIM", 8, "MODEL.SWIN.DEPTHS", [2, 2, 2, 2], "MODEL.SWIN.NUM_HEADS", [1, 2, 4, 8]]
BACKBONES = {
    "build_resnet_fpn_backbone": [*RESNET, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]],
    "build_hrnet_backbone": ["MODEL.HRNET.NAME", "hrnet_w18_small"],
    "build_swin_fpn_backbone": [*SWIN, "MODEL.SWIN.STOCHASTIC_DEPTH", 0.5],
    "build_movenet_backbone": ["MODEL.MOVENET.FROZEN", False],
}


def built(name):
    if name in BACKBONES:
        return build_backbone(tiny_config("light", "MODEL.BACKBONE.NAME", name, *BACKBONES[name]))
    return TimmBackbone(name, options=dict(MODELS)[name])


@pytest.mark.parametrize("name", [*BACKBONES, "resnet18", "efficientnet_lite0", "convnext_tiny"])
def test_the_pyramid_and_that_no_number_changes(name):
    dtype = torch.float32 if "movenet" in name else torch.float64  # MoveNet's heads are always in the former
    plain = built(name).to(dtype).train()
    saving = copy.deepcopy(plain)
    checkpoint_blocks(saving)
    assert list(saving.state_dict()) == list(plain.state_dict())
    image = torch.randn(2, 3, 64, 96, dtype=dtype)
    for backbone in (plain, saving):
        torch.manual_seed(3)  # stochastic depth: the same blocks are skipped, also in the second pass over them
        outputs, shapes = backbone(image), backbone.output_shape()
        sum(outputs[level].square().mean() for level in shapes).backward()
    if name in BACKBONES:
        assert list(shapes)[:4] == ["p2", "p3", "p4", "p5"] and backbone.size_divisibility == 32
    for stride, (level, shape) in zip((4, 8, 16, 32), shapes.items(), strict=False):
        assert outputs[level].shape == (2, shape.channels, 64 // stride, 96 // stride) and shape.stride == stride
    assert [key for key, value in plain.named_parameters() if value.requires_grad and value.grad is None] == []
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    # running statistics and their counters too: the second pass over a block does not count
    torch.testing.assert_close(saving.state_dict(), plain.state_dict())


def saved_elements(backbone, image):
    """Numbers that autograd keeps for the backward pass."""
    saved = {}
    keep = lambda tensor: saved.setdefault(tensor.data_ptr(), tensor.numel()) and tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(image)
    return sum(saved.values())


@pytest.mark.parametrize(("name", "number"), [("build_hrnet_backbone", 19), ("resnet18", 8)])
def test_less_is_saved(name, number):
    plain = built(name).train()
    saving = copy.deepcopy(plain)
    checkpoint_blocks(saving)
    image = torch.randn(1, 3, 64, 64)
    assert saved_elements(saving, image) < 0.7 * saved_elements(plain, image)
    assert len(find_blocks(plain)) == number

    # a copy is its own
    other = copy.deepcopy(saving)
    sum(other(image)[level].sum() for level in other.output_shape()).backward()
    assert all(parameter.grad is None for parameter in saving.parameters())


def test_the_switch_and_weights_for_inference(save):
    model = tiny_model("light", "MODEL.BACKBONE.ACTIVATION_CHECKPOINTING", True)
    state = tiny_model("light").state_dict()
    load_weights(model, save({"model": state}))
    del state["backbone.bottom_up.model.layer1.0.conv1.weight"]
    with pytest.raises(UserError, match="lack 1 .* first backbone.bottom_up.model.layer1.0.conv1.weight"):
        load_weights(model, save({"model": state}))
    with pytest.raises(UserError, match="MODEL.BACKBONE.ACTIVATION_CHECKPOINTING is True, but .* no blocks"):
        checkpoint_blocks(nn.Sequential(nn.Conv2d(3, 4, 1)))
