"""Weights that training starts from: files, timm's pretrained backbones, and what is said where there are none."""

import copy

import huggingface_hub.constants
import pytest
import timm
import torch
from detectron2.modeling import build_model
from tiny_model import tiny_config

from querypose.engine.checkpointer import PoseCheckpointer
from querypose.errors import UserError
from querypose.modeling.backbones import timm_weights

CREATE_MODEL = timm.create_model
HRNET = ("MODEL.BACKBONE.NAME", "build_hrnet_backbone", "MODEL.HRNET.NAME", "hrnet_w18_small")
RESNET_FPN = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18)
RESNET_FPN += ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"])


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds weights for everything: all their numbers are 0.25."""
    asked = []

    def create(name, pretrained=False, **options):
        model = CREATE_MODEL(name, pretrained=False, **options)
        if pretrained:
            asked.append(name)
            for tensor in model.state_dict().values():
                tensor.fill_(0.25)
        return model

    monkeypatch.setattr(timm_weights.timm, "create_model", create)
    return asked


def model_with(*opts):
    cfg = tiny_config("light", *opts)
    if cfg.MODEL.BACKBONE.NAME == "build_timm_fpn_backbone":
        cfg.MODEL.TIMM.OPTIONS.pop("channels")
    return build_model(cfg)


@pytest.mark.parametrize(
    ("opts", "name"),
    [
        (("MODEL.TIMM.NAME", "mobilenetv3_small_050"), "mobilenetv3_small_050.lamb_in1k"),
        (("MODEL.TIMM.NAME", "mobilenetv3_small_050", "MODEL.TIMM.NORM", "FrozenBN"), "mobilenetv3_small_050"),
        (("MODEL.TIMM.NAME", "resnet10t", "MODEL.FPN.IN_FEATURES", ["res2", "res3"]), "resnet10t.c3_in1k"),
        (HRNET, "hrnet_w18_small.ms_in1k"),
    ],
)
def test_timm_weights_fill_the_backbone_and_nothing_else(hub, opts, name):
    model = model_with(*opts)
    before = copy.deepcopy(model.state_dict())
    assert PoseCheckpointer(model).resume_or_load(f"timm://{name}", resume=False) == {}
    assert hub == [name]
    bottom_up = 0
    for key, tensor in model.state_dict().items():
        if key.startswith("backbone.bottom_up.") and not key.endswith("num_batches_tracked"):
            assert (tensor == 0.25).all(), key
            bottom_up += 1
        else:
            assert torch.equal(tensor, before[key]), key
    assert bottom_up > 20


def test_weights_of_another_architecture_are_refused_and_leave_the_model_alone(hub):
    model = model_with("MODEL.TIMM.NAME", "mobilenetv3_small_050")
    before = copy.deepcopy(model.state_dict())
    for name in ("mobilenetv3_small_075", "resnet10t"):
        with pytest.raises(UserError, match=f"timm://{name}', which is another architecture .* first "):
            PoseCheckpointer(model).load(f"timm://{name}")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_names_and_backbones_without_timm_weights(hub):
    with pytest.raises(UserError, match="'timm://no_such_net.in1k', which timm does not know"):
        PoseCheckpointer(model_with(*HRNET)).load("timm://no_such_net.in1k")
    with pytest.raises(UserError, match="only build_hrnet_backbone and build_timm_fpn_backbone"):
        PoseCheckpointer(model_with(*RESNET_FPN)).load("timm://resnet18")
    assert not hub


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


def test_without_a_network_one_sentence_says_so(no_network):
    model = model_with("MODEL.TIMM.NAME", "mobilenetv3_small_050")
    with pytest.raises(UserError, match="which timm cannot load .*; without a network fill timm's cache") as error:
        PoseCheckpointer(model).load("timm://mobilenetv3_small_050")
    assert "\n" not in str(error.value)


def test_a_name_without_pretrained_weights(no_network):
    name = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(UserError, match="which timm cannot load .*[Nn]o pretrained weights exist"):
        PoseCheckpointer(model_with("MODEL.TIMM.NAME", "mobilenetv3_small_050")).load(f"timm://{name}")


def test_files(tmp_path):
    model = model_with("MODEL.TIMM.NAME", "mobilenetv3_small_050")
    with pytest.raises(UserError, match="there is no weights file weights/nothing.pth; set MODEL.WEIGHTS"):
        PoseCheckpointer(model).load("weights/nothing.pth")
    assert PoseCheckpointer(model).load("") == {}
    PoseCheckpointer(model, str(tmp_path)).save("model", iteration=7)
    other = model_with("MODEL.TIMM.NAME", "mobilenetv3_small_050")
    assert PoseCheckpointer(other).load(str(tmp_path / "model.pth"))["iteration"] == 7
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in other.state_dict().items())
