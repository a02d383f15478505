"""torchvision's ResNets compute the same features after conversion."""

import pytest
import torch
import torchvision
from detectron2.modeling import build_backbone
from torchvision.models._utils import IntermediateLayerGetter

from querypose.conversion.backbones import convert_torchvision_checkpoint
from querypose.conversion.layout import CONFIG_FOLDER
from querypose.errors import UserError
from querypose.setup_config import setup_config


def torchvision_resnet(depth):
    """A torchvision ResNet in eval mode whose norms do something."""
    model = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "bn1.bias", "bn2.bias")):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(("depth", "config"), [(50, "querypose_R50.yaml"), (101, "querypose_R101.yaml")])
@torch.no_grad()
def test_same_features(save, depth, config):
    theirs = torchvision_resnet(depth)
    conversion = convert_torchvision_checkpoint(save(theirs.state_dict()))
    assert conversion.configs[0] == config and not conversion.overrides
    assert sum(map(len, conversion.dropped.values())) == 2 + sum("num_batches" in name for name in theirs.state_dict())

    backbone = build_backbone(setup_config(str(CONFIG_FOLDER / config), ["MODEL.DEVICE", "cpu"])).eval()
    ours = {name.removeprefix("backbone.bottom_up."): tensor for name, tensor in conversion.state_dict.items()}
    backbone.bottom_up.load_state_dict(ours, strict=True)
    image = torch.randn(1, 3, 96, 128)
    layers = {f"layer{number}": f"res{number + 1}" for number in range(1, 5)}
    expected = IntermediateLayerGetter(theirs, layers)(image)
    features = backbone.bottom_up(image)
    for name, feature in expected.items():
        assert feature.std() > 0.01
        torch.testing.assert_close(features[name], feature, rtol=1e-4, atol=1e-5)


def test_other_files_are_refused(save):
    state_dict = torchvision_resnet(50).state_dict()
    without = {name: tensor for name, tensor in state_dict.items() if name != "layer2.1.bn3.weight"}
    for content, words in (
        (without, r"1 missing \(backbone\.bottom_up\.res3\.1\.conv3\.norm\.weight\)"),
        (torchvision.models.resnet18(weights=None).state_dict(), "of torchvision: it lacks layer3.0.conv3.weight"),
        ({**state_dict, "layer3.7.conv1.weight": torch.ones(1)}, r"1 unexpected \(backbone\.bottom_up\.res4\.7\.conv1"),
    ):
        with pytest.raises(UserError, match=words):
            convert_torchvision_checkpoint(save(content))
