"""Any timm model as a Detectron2 backbone, and BatchNorm modes."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from tiny_model import tiny_config
from torch import nn

from querypose.errors import UserError
from querypose.modeling.backbones.timm_models import TimmBackbone, build_timm_fpn_backbone

NARROW = {"channels": [8, 16, 24, 32]}
# plain BatchNorm, BatchNorm with an activation inside, LayerNorm, and one that returns (B, H, W, C)
MODELS = [
    ("resnet18", NARROW),
    ("mobilenetv2_100", {}),
    ("efficientnet_lite0", {}),
    ("convnext_tiny", {"dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}),
    ("mambaout_femto", {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
]
TWO_NORMS = [MODELS[0], MODELS[2]]


@pytest.mark.parametrize(("name", "options"), [*MODELS, ("hrnet_w18_small", {})])
@pytest.mark.parametrize("number", [4, 2])
def test_shapes_and_gradients(name, options, number):
    """Parameters that have no part in the features, as of layers behind the last one, are frozen."""
    keys = ("res2", "res3", "res4", "res5")[:number]
    backbone = TimmBackbone(name, options=options, out_features=keys).train()
    features, shapes = backbone(torch.randn(2, 3, 64, 96)), backbone.output_shape()
    assert tuple(features) == keys
    for stride, (key, feature) in zip((4, 8, 16, 32), features.items(), strict=False):
        assert feature.shape == (2, shapes[key].channels, 64 // stride, 96 // stride)
        assert shapes[key].stride == stride
    sum(feature.square().mean() for feature in features.values()).backward()
    parameters = list(backbone.parameters())
    trained = [parameter.grad is not None for parameter in parameters]
    assert trained == [parameter.requires_grad for parameter in parameters]
    assert any(trained) and all(trained) == (number == 4)


def batch_norms(model):
    return {name: module for name, module in model.named_modules() if hasattr(module, "running_mean")}


@pytest.mark.parametrize(("name", "options"), TWO_NORMS)
def test_frozen_batch_norm(name, options):
    trainable = TimmBackbone(name, options=options)
    for norm in batch_norms(trainable).values():
        nn.init.uniform_(norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
    frozen = TimmBackbone(name, options=options, norm="FrozenBN")
    frozen.load_state_dict(trainable.state_dict(), strict=True)

    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    before = {key: value.clone() for key, value in frozen.double().state_dict().items()}
    result = frozen.train()(image)
    torch.testing.assert_close(result, trainable.double().eval()(image))

    sum(value.square().mean() for value in result.values()).backward()
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    parameters = dict(frozen.named_parameters())
    assert all(parameter.grad is not None for parameter in parameters.values())
    assert not {f"{norm}.{kind}" for norm in batch_norms(frozen) for kind in ("weight", "bias")} & parameters.keys()


@pytest.mark.parametrize(("name", "options", "norm"), [("resnet18", NARROW, "FrozenBN"), (*MODELS[3], "BN")])
def test_a_frozen_backbone_stays_as_it_is(name, options, norm):
    backbone = TimmBackbone(name, options=options, norm=norm, frozen=True).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    features = backbone(torch.randn(2, 3, 64, 64))
    assert not any(feature.requires_grad for feature in features.values())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    # of the config's key, the neck is trained all the same
    opts = ("MODEL.TIMM.FROZEN", True, "MODEL.TIMM.NORM", "FrozenBN")
    whole = build_timm_fpn_backbone(tiny_config("light", *opts), ShapeSpec(channels=3))
    trained = {name.split(".")[0] for name, parameter in whole.named_parameters() if parameter.requires_grad}
    assert trained == {f"fpn_{kind}{level}" for kind in ("lateral", "output") for level in (2, 3, 4, 5)}


@pytest.mark.parametrize(("name", "options"), TWO_NORMS)
@torch.no_grad()
def test_synchronized_batch_norm(name, options, monkeypatch):
    trainable = TimmBackbone(name, options=options).eval()
    synchronized = TimmBackbone(name, options=options, norm="SyncBN").eval()
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in batch_norms(synchronized).values())
    synchronized.load_state_dict(trainable.state_dict(), strict=True)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(synchronized(image)["res5"], trainable(image)["res5"])

    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="MODEL.TIMM.NORM 'SyncBN' works on GPUs only"):
        TimmBackbone(name, options=options, norm="SyncBN")


def test_weights_that_cannot_be_fetched(monkeypatch):
    def no_network(*args, **kwargs):
        raise FileNotFoundError("no connection and no cached file")

    monkeypatch.setattr("timm.create_model", no_network)
    with pytest.raises(UserError, match="no cached file; its weights need a network or timm's filled cache"):
        TimmBackbone("resnet18", pretrained=True)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("resnet1800", {}, "MODEL.TIMM.NAME is 'resnet1800'"),
        ("resnet18", {"options": {"color": "red"}}, "resnet18.*color"),
        ("resnet18", {"frozen": True}, r"MODEL\.TIMM\.NORM 'BN' changes with every batch; .* give FrozenBN"),
        ("convnext_atto", {"norm": "FrozenBN"}, "has no BatchNorm; set it to BN"),
        ("vit_tiny_patch16_224", {}, "stride"),
        ("swin_tiny_patch4_window7_224", {"options": {"depths": (1, 1, 1, 1)}}, "any size that 32 divides.*another"),
    ],
)
def test_models_and_options_that_cannot_be(name, options, reason):
    with pytest.raises(UserError, match=reason):
        TimmBackbone(name, **options)


@pytest.mark.parametrize("names", [[], ["res2", "res4"], ["res3", "res2"], ["res5", "res6"]])
def test_features_without_a_pyramid(names):
    cfg = tiny_config()
    cfg.MODEL.FPN.IN_FEATURES = names
    with pytest.raises(UserError, match="MODEL.FPN.IN_FEATURES is .*without a gap"):
        build_timm_fpn_backbone(cfg, ShapeSpec(channels=3))
