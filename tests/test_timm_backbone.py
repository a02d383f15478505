"""Any timm model as a Detectron2 backbone; BatchNorm modes and activation checkpointing."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from tiny_model import tiny_config
from torch import nn

from querypose.errors import UserError
from querypose.modeling.backbones import TimmBackbone, build_timm_fpn_backbone

NARROW = {"channels": [8, 16, 24, 32]}
LEVELS = ["res2", "res3", "res4", "res5"]
# plain BatchNorm, BatchNorm with an activation inside, LayerNorm, and one that returns (B, H, W, C)
MODELS = [
    ("resnet18", NARROW),
    ("mobilenetv2_100", {}),
    ("efficientnet_lite0", {}),
    ("convnext_tiny", {"dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}),
    ("mambaout_femto", {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
]


@pytest.mark.parametrize(("name", "options"), [*MODELS, ("hrnet_w18_small", {})])
@torch.no_grad()
def test_shapes_are_those_that_it_says(name, options):
    backbone = TimmBackbone(name, options=options).eval()
    features = backbone(torch.randn(1, 3, 64, 96))
    shapes = backbone.output_shape()
    assert list(features) == LEVELS
    for stride, (key, feature) in zip((4, 8, 16, 32), features.items(), strict=True):
        assert feature.shape == (1, shapes[key].channels, 64 // stride, 96 // stride)
        assert shapes[key].stride == stride


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_every_parameter_has_a_gradient(name, options):
    cfg = tiny_config("light", "MODEL.TIMM.NAME", name)
    cfg.MODEL.TIMM.OPTIONS.clear()
    cfg.MODEL.TIMM.OPTIONS.update(options)
    backbone = build_timm_fpn_backbone(cfg, ShapeSpec(channels=3)).train()
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 64, 96)).values()).backward()
    parameters = dict(backbone.named_parameters())
    assert [key for key, parameter in parameters.items() if not parameter.requires_grad or parameter.grad is None] == []


@torch.no_grad()
def test_some_features_alone():
    backbone = TimmBackbone("resnet18", options=NARROW, out_features=("res3", "res5")).eval()
    features = backbone(torch.randn(1, 3, 64, 64))
    assert {key: value.shape[1] for key, value in features.items()} == {"res3": 16, "res5": 32}


@pytest.mark.parametrize(("name", "options"), [("resnet18", NARROW), ("efficientnet_lite0", {})])
def test_layers_behind_the_last_feature_are_frozen(name, options):
    backbone = TimmBackbone(name, options=options, out_features=("res2", "res3")).train()
    features = backbone(torch.randn(2, 3, 64, 64))
    assert [feature.shape[-1] for feature in features.values()] == [16, 8]
    sum(feature.square().sum() for feature in features.values()).backward()
    trained = {key for key, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert trained == {key for key, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert 0 < len(trained) < len(list(backbone.parameters()))


@torch.no_grad()
def test_channels_last_outputs_are_turned():
    backbone = TimmBackbone("mambaout_femto", options=MODELS[-1][1]).eval()
    image = torch.randn(1, 3, 64, 96)
    turned = backbone(image)["res3"]
    plain = backbone.model(image)[1]
    assert plain.shape == (1, 8, 12, 16)
    assert torch.equal(turned[0, 5], plain[0, :, :, 5])


def batch_norms(model):
    return {name: module for name, module in model.named_modules() if hasattr(module, "running_mean")}


@pytest.mark.parametrize(("name", "options"), [("resnet18", NARROW), ("efficientnet_lite0", {})])
def test_frozen_batch_norm(name, options):
    trainable = TimmBackbone(name, options=options)
    for norm in batch_norms(trainable).values():
        nn.init.uniform_(norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
    frozen = TimmBackbone(name, options=options, norm="FrozenBN")
    frozen.load_state_dict(trainable.state_dict(), strict=True)

    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    trainable, frozen = trainable.double(), frozen.double()
    expected = trainable.eval()(image)
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    result = frozen.train()(image)
    for key, value in expected.items():
        torch.testing.assert_close(result[key], value)

    sum(value.square().mean() for value in result.values()).backward()
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    parameters = dict(frozen.named_parameters())
    assert all(parameter.grad is not None for parameter in parameters.values())
    for norm in batch_norms(frozen):
        assert f"{norm}.weight" not in parameters and f"{norm}.bias" not in parameters


@pytest.mark.parametrize(("name", "options", "norm"), [("resnet18", NARROW, "FrozenBN"), (*MODELS[3], "BN")])
def test_a_frozen_backbone_stays_as_it_is(name, options, norm):
    backbone = TimmBackbone(name, options=options, norm=norm, frozen=True).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    features = backbone(torch.randn(2, 3, 64, 64))
    assert not any(feature.requires_grad for feature in features.values())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    # of the config's key, the neck is trained all the same
    opts = ("MODEL.TIMM.FROZEN", True, "MODEL.TIMM.NORM", "FrozenBN")
    whole = build_timm_fpn_backbone(tiny_config("light", *opts), ShapeSpec(channels=3))
    trained = {name.split(".")[0] for name, parameter in whole.named_parameters() if parameter.requires_grad}
    assert trained == {f"fpn_{kind}{level}" for kind in ("lateral", "output") for level in (2, 3, 4, 5)}


def test_trainable_batch_norm_is_the_default():
    backbone = TimmBackbone("resnet18", options=NARROW).train()
    backbone(3 + torch.randn(2, 3, 64, 64))
    assert backbone.model.bn1.num_batches_tracked == 1 and backbone.model.bn1.weight.requires_grad


@pytest.mark.parametrize(("name", "options"), [("resnet18", NARROW), ("efficientnet_lite0", {})])
@torch.no_grad()
def test_synchronized_batch_norm(name, options):
    trainable = TimmBackbone(name, options=options).eval()
    synchronized = TimmBackbone(name, options=options, norm="SyncBN").eval()
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in batch_norms(synchronized).values())
    synchronized.load_state_dict(trainable.state_dict(), strict=True)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(synchronized(image)["res5"], trainable(image)["res5"])


def test_synchronized_batch_norm_of_cpu_processes(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="MODEL.TIMM.NORM 'SyncBN' works on GPUs only"):
        TimmBackbone("resnet18", options=NARROW, norm="SyncBN")


def test_weights_that_cannot_be_fetched(monkeypatch):
    class NotInTheCache(FileNotFoundError, ValueError):  # as the Hub's client has it
        pass

    def no_network(*args, **kwargs):
        raise NotInTheCache("no connection\nand no cached file")

    monkeypatch.setattr("timm.create_model", no_network)
    with pytest.raises(UserError, match="cannot fetch without a network; set MODEL.TIMM.PRETRAINED False") as caught:
        TimmBackbone("resnet18", pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("resnet1800", {}, "MODEL.TIMM.NAME is 'resnet1800'"),
        ("resnet18", {"options": {"color": "red"}}, "resnet18.*color"),
        ("resnet18", {"frozen": True}, r"MODEL\.TIMM\.NORM 'BN' would change with every batch; set it to 'FrozenBN'"),
        ("convnext_atto", {"norm": "FrozenBN"}, "has no BatchNorm; set it to BN"),
        ("vit_tiny_patch16_224", {}, "stride"),
        (
            "swin_tiny_patch4_window7_224",
            {"options": {"embed_dim": 12, "depths": (1, 1, 1, 1)}},
            "any size that 32 divides.*another",
        ),
    ],
)
def test_models_and_options_that_cannot_be(name, options, reason):
    with pytest.raises(UserError, match=reason):
        TimmBackbone(name, **options)


@pytest.mark.parametrize("names", [[], ["res2", "res4"], ["res3", "res2"], ["res5", "res6"], ["p2"]])
def test_features_without_a_pyramid(names):
    cfg = tiny_config()
    cfg.MODEL.FPN.IN_FEATURES = names
    with pytest.raises(UserError, match="MODEL.FPN.IN_FEATURES is .*without a gap"):
        build_timm_fpn_backbone(cfg, ShapeSpec(channels=3))
