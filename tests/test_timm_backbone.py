"""Any timm model as a Detectron2 backbone."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from tiny_model import tiny_config

from querypose.errors import UserError
from querypose.modeling.timm_backbone import TimmBackbone, build_timm_fpn_backbone

NARROW = {"channels": [8, 16, 24, 32]}


@pytest.mark.parametrize(("name", "options"), [("resnet18", NARROW), ("hrnet_w18_small", {})])
@torch.no_grad()
def test_shapes_are_those_that_it_says(name, options):
    backbone = TimmBackbone(name, options=options).eval()
    features = backbone(torch.randn(1, 3, 64, 96))
    shapes = backbone.output_shape()
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for stride, (key, feature) in zip((4, 8, 16, 32), features.items(), strict=True):
        assert feature.shape == (1, shapes[key].channels, 64 // stride, 96 // stride)
        assert shapes[key].stride == stride


def test_options_reach_timm():
    backbone = TimmBackbone("resnet18", options=NARROW)
    assert [backbone.output_shape()[f"res{level}"].channels for level in (2, 3, 4, 5)] == [8, 16, 24, 32]


@torch.no_grad()
def test_some_features_alone():
    backbone = TimmBackbone("resnet18", options=NARROW, out_features=("res3", "res5")).eval()
    assert {key: value.shape[1] for key, value in backbone(torch.randn(1, 3, 64, 64)).items()} == {"res3": 16, "res5": 32}


@torch.no_grad()
def test_fpn_from_the_config():
    backbone = build_timm_fpn_backbone(tiny_config(), ShapeSpec(channels=3)).eval()
    features = backbone(torch.randn(1, 3, 64, 96))
    for stride, level in ((4, "p2"), (8, "p3"), (16, "p4"), (32, "p5")):
        assert features[level].shape == (1, 16, 64 // stride, 96 // stride)
        assert backbone.output_shape()[level].stride == stride
    assert backbone.size_divisibility == 32
    assert backbone.bottom_up.output_shape()["res5"].channels == 16


def test_unknown_name():
    with pytest.raises(UserError, match="MODEL.TIMM.NAME is 'resnet1800'"):
        TimmBackbone("resnet1800")


def test_unknown_option():
    with pytest.raises(UserError, match="resnet18.*colour"):
        TimmBackbone("resnet18", options={"colour": "red"})


def test_a_model_without_pyramid():
    with pytest.raises(UserError, match="stride"):
        TimmBackbone("vit_tiny_patch16_224")
