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

MOBILENET = ("MODEL.TIMM.NAME", "mobilenetv3_small_050")
HRNET = ("MODEL.BACKBONE.NAME", "build_hrnet_backbone", "MODEL.HRNET.NAME", "hrnet_w18_small")
RESNET_FPN = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 18)
RESNET_FPN += ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"])


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds weights for everything: all their numbers are 0.25."""
    asked, create_model = [], timm.create_model

    def create(name, pretrained=False, **options):
        model = create_model(name, pretrained=False, **options)
        if pretrained:
            asked.append(name)
            for tensor in model.state_dict().values():
                tensor.fill_(0.25)
        return model

    monkeypatch.setattr(timm_weights.timm, "create_model", create)
    return asked


def checkpointer_of(*opts, folder=""):
    cfg = tiny_config("light", *opts)
    if cfg.MODEL.BACKBONE.NAME == "build_timm_fpn_backbone":
        cfg.MODEL.TIMM.OPTIONS.pop("channels")
    return PoseCheckpointer(build_model(cfg), str(folder))


@pytest.mark.parametrize(
    ("opts", "name"),
    [
        (MOBILENET, "mobilenetv3_small_050.lamb_in1k"),
        ((*MOBILENET, "MODEL.TIMM.NORM", "FrozenBN"), "mobilenetv3_small_050"),
        (("MODEL.TIMM.NAME", "resnet10t", "MODEL.FPN.IN_FEATURES", ["res2", "res3"]), "resnet10t.c3_in1k"),
        (HRNET, "hrnet_w18_small.ms_in1k"),
    ],
)
def test_timm_weights_fill_the_backbone_and_nothing_else(hub, opts, name):
    checkpointer = checkpointer_of(*opts)
    before = copy.deepcopy(checkpointer.model.state_dict())
    assert checkpointer.load(f"timm://{name}") == {} and hub == [name]
    bottom_up = 0
    for key, tensor in checkpointer.model.state_dict().items():
        if key.startswith("backbone.bottom_up.") and not key.endswith("num_batches_tracked"):
            assert (tensor == 0.25).all(), key
            bottom_up += 1
        else:
            assert torch.equal(tensor, before[key]), key
    assert bottom_up > 20


@pytest.mark.parametrize(
    ("opts", "name", "words"),
    [
        (MOBILENET, "mobilenetv3_small_075", "is another architecture than the backbone"),
        (HRNET, "no_such_net.in1k", "timm does not know"),
        (RESNET_FPN, "resnet18", "only build_hrnet_backbone and build_timm_fpn_backbone"),
    ],
)
def test_other_weights_are_refused_and_leave_the_model_alone(hub, opts, name, words):
    checkpointer = checkpointer_of(*opts)
    before = copy.deepcopy(checkpointer.model.state_dict())
    with pytest.raises(UserError, match=f"'timm://{name}', .*{words}"):
        checkpointer.load(f"timm://{name}")
    assert all(torch.equal(tensor, before[key]) for key, tensor in checkpointer.model.state_dict().items())


def test_without_a_network_or_pretrained_weights_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    checkpointer = checkpointer_of(*MOBILENET)
    with pytest.raises(UserError, match="which timm cannot load .*; without a network fill timm's cache") as error:
        checkpointer.load("timm://mobilenetv3_small_050")
    assert "\n" not in str(error.value)
    name = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(UserError, match="which timm cannot load .*[Nn]o pretrained weights exist"):
        checkpointer.load(f"timm://{name}")


def test_files(tmp_path):
    checkpointer, other = checkpointer_of(folder=tmp_path), checkpointer_of()
    with pytest.raises(UserError, match="there is no weights file weights/nothing.pth; set MODEL.WEIGHTS"):
        checkpointer.load("weights/nothing.pth")
    assert checkpointer.load("") == {}
    checkpointer.save("model", iteration=7)
    assert other.load(str(tmp_path / "model.pth"))["iteration"] == 7
    state = checkpointer.model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in other.model.state_dict().items())
