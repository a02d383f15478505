"""Public HRNet files become the backbone's weights, tensor by tensor."""

import functools
import re

import pytest
import timm
import torch

from querypose.conversion.backbones import convert_hrnet_checkpoint
from querypose.errors import UserError

# a pose-HRNet makes only the finest map in its last module
COARSE = r"stage4\.2\.fuse_layers\.[123]\..+"
CLASSIFIER = r"(?:incre_modules|downsamp_modules|final_layer|classifier)\..+"
POSE_HEAD = {"final_layer.weight": (17, 32, 1, 1), "final_layer.bias": (17,)}


@functools.cache
def imagenet_hrnet(width):
    """Names and shapes of the original ImageNet classifier, which are timm's."""
    with torch.device("meta"):
        model = timm.create_model(f"hrnet_w{width}")
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def original_hrnet(width, all_outputs):
    """Those of its trunk; without `all_outputs` the trunk of a pose-HRNet."""
    left_out = CLASSIFIER if all_outputs else f"{CLASSIFIER}|{COARSE}"
    return {name: shape for name, shape in imagenet_hrnet(width).items() if not re.fullmatch(left_out, name)}


def tensors_of(shapes):
    """Tensors of these shapes that take no space, each of a number of its own."""
    return {name: torch.tensor(float(index)).expand(shape) for index, (name, shape) in enumerate(shapes.items())}


def test_imagenet_checkpoint(save):
    # PyTorch before 0.4.1 saved no counters
    whole = {name: t for name, t in tensors_of(imagenet_hrnet(32)).items() if not name.endswith("num_batches_tracked")}
    conversion = convert_hrnet_checkpoint(save(whole))
    assert conversion.configs[:2] == ["querypose_HRNet-W32.yaml", "querypose_light_HRNet-W32.yaml"]
    assert not conversion.overrides and not conversion.fresh
    trunk = {name: tensor for name, tensor in whole.items() if name in original_hrnet(32, all_outputs=True)}
    ours = {name.removeprefix("backbone.bottom_up."): tensor for name, tensor in conversion.state_dict.items()}
    assert ours.keys() == trunk.keys() and all(torch.equal(ours[name], tensor) for name, tensor in trunk.items())
    dropped = [name for names in conversion.dropped.values() for name in names]
    assert sorted(dropped) == sorted(whole.keys() - trunk.keys())


def test_pose_checkpoint_lacks_the_coarse_outputs_of_its_last_module(save):
    trunk, complete = original_hrnet(48, all_outputs=False), original_hrnet(48, all_outputs=True)
    tensors = tensors_of(trunk)
    conversion = convert_hrnet_checkpoint(save({"state_dict": {f"module.{n}": t for n, t in tensors.items()}}))
    assert conversion.configs[0] == "querypose_HRNet-W48.yaml" and not conversion.overrides
    lacking = [f"backbone.bottom_up.{name}" for name in complete if name not in trunk]
    assert list(conversion.fresh.values()) == [lacking]
    assert conversion.state_dict.keys() == {f"backbone.bottom_up.{name}" for name in trunk}
    assert all(torch.equal(conversion.state_dict[f"backbone.bottom_up.{name}"], t) for name, t in tensors.items())


def test_heatmap_head_is_dropped_and_other_widths_need_an_override(save):
    content = tensors_of(original_hrnet(18, all_outputs=False) | POSE_HEAD)
    conversion = convert_hrnet_checkpoint(save(content))
    assert conversion.overrides == ["MODEL.HRNET.NAME", "hrnet_w18"]
    assert [name for names in conversion.dropped.values() for name in names] == list(POSE_HEAD)


def test_damaged_and_foreign_files_are_refused(save):
    shapes = original_hrnet(32, all_outputs=True)
    some = {name: shape for name, shape in shapes.items() if not name.startswith("stage4.2.fuse_layers.2")}
    misshapen = r"1 misshapen \(backbone.bottom_up.conv2.weight \(64, 64, 1, 1\) instead of \(64, 64, 3, 3\)\)"
    for others, words in (
        (some, r"20 missing \(backbone.bottom_up.stage4.2.fuse_layers.2.0.0.0.weight"),
        ({**shapes, "stage5.weight": (2,)}, r"1 unexpected \(backbone.bottom_up.stage5.weight\)"),
        ({**shapes, "conv2.weight": (64, 64, 1, 1)}, misshapen),
        ({"layer1.0.conv1.weight": (1,)}, "does not match HRNet: it lacks transition1.0.0.weight"),
        ({**shapes, "transition1.0.0.weight": (20, 256, 3, 3)}, "timm cannot build"),
    ):
        with pytest.raises(UserError, match=words):
            convert_hrnet_checkpoint(save(tensors_of(others)))
