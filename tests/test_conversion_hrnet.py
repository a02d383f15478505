"""Public HRNet files become the backbone's weights, tensor by tensor; the original naming is written out here."""

import json

import pytest
import timm
import torch

from querypose.conversion import convert_hrnet_checkpoint
from querypose.errors import UserError

BLOCKS_PER_MODULE = 4
MODULES = {2: 1, 3: 4, 4: 3}


def conv_bn(name, norm, channels_in, channels_out, size):
    shapes = {f"{name}.weight": (channels_out, channels_in, size, size)}
    for kind in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{norm}.{kind}"] = (channels_out,)
    shapes[f"{norm}.num_batches_tracked"] = ()
    return shapes


def original_hrnet(width, all_outputs):
    """Names and shapes of HRNet's trunk; without `all_outputs` the last module makes only its finest map (pose)."""
    channels = [width * 2**branch for branch in range(4)]
    shapes = conv_bn("conv1", "bn1", 3, 64, 3) | conv_bn("conv2", "bn2", 64, 64, 3)
    for block in range(4):
        name, before = f"layer1.{block}", 64 if block == 0 else 256
        shapes |= conv_bn(f"{name}.conv1", f"{name}.bn1", before, 64, 1)
        shapes |= conv_bn(f"{name}.conv2", f"{name}.bn2", 64, 64, 3)
        shapes |= conv_bn(f"{name}.conv3", f"{name}.bn3", 64, 256, 1)
        if block == 0:
            shapes |= conv_bn(f"{name}.downsample.0", f"{name}.downsample.1", 64, 256, 1)
    shapes |= conv_bn("transition1.0.0", "transition1.0.1", 256, channels[0], 3)
    shapes |= conv_bn("transition1.1.0.0", "transition1.1.0.1", 256, channels[1], 3)
    shapes |= conv_bn("transition2.2.0.0", "transition2.2.0.1", channels[1], channels[2], 3)
    shapes |= conv_bn("transition3.3.0.0", "transition3.3.0.1", channels[2], channels[3], 3)
    for stage, modules in MODULES.items():
        for module in range(modules):
            last = stage == 4 and module == modules - 1
            shapes |= hrnet_module(f"stage{stage}.{module}", channels[:stage], 1 if last and not all_outputs else stage)
    return shapes


def hrnet_module(name, channels, outputs):
    shapes = {}
    for branch, width in enumerate(channels):
        for block in range(BLOCKS_PER_MODULE):
            prefix = f"{name}.branches.{branch}.{block}"
            shapes |= conv_bn(f"{prefix}.conv1", f"{prefix}.bn1", width, width, 3)
            shapes |= conv_bn(f"{prefix}.conv2", f"{prefix}.bn2", width, width, 3)
    for out in range(outputs):
        for source, width in enumerate(channels):
            prefix = f"{name}.fuse_layers.{out}.{source}"
            if source > out:
                shapes |= conv_bn(f"{prefix}.0", f"{prefix}.1", width, channels[out], 1)
            for step in range(out - source):
                wanted = channels[out] if step == out - source - 1 else width
                shapes |= conv_bn(f"{prefix}.{step}.0", f"{prefix}.{step}.1", width, wanted, 3)
    return shapes


def tensors_of(shapes):
    """Tensors of these shapes that take no space, each of a number of its own."""
    return {name: torch.tensor(float(index)).expand(shape) for index, (name, shape) in enumerate(shapes.items())}


POSE_HEAD = {"final_layer.weight": (17, 32, 1, 1), "final_layer.bias": (17,)}
CLASSIFIER = {
    **conv_bn("incre_modules.0.0.conv1", "incre_modules.0.0.bn1", 32, 32, 1),
    **conv_bn("downsamp_modules.0.0", "downsamp_modules.0.1", 128, 256, 3),
    **conv_bn("final_layer.0", "final_layer.1", 1024, 2048, 1),
    "classifier.weight": (1000, 2048),
    "classifier.bias": (1000,),
}


@pytest.fixture
def save(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "theirs.pth")
        return str(tmp_path / "theirs.pth")

    return write


@pytest.mark.parametrize(("width", "keys"), [(32, "W32_light"), (48, "W48_full")])
def test_the_naming_written_out_here_is_that_of_the_authors(shared_folder, width, keys):
    record = json.loads((shared_folder / f"parity/keys_{keys}.json").read_text())
    prefix = "backbone.bottom_up."
    theirs = {name[len(prefix) :]: tuple(shape) for name, shape in record.items() if name.startswith(prefix)}
    assert original_hrnet(width, all_outputs=True) == theirs


@pytest.mark.parametrize("counters", [True, False])
def test_imagenet_checkpoint(save, counters):
    trunk = tensors_of(original_hrnet(32, all_outputs=True))
    if not counters:
        # PyTorch before 0.4.1 saved none
        trunk = {name: tensor for name, tensor in trunk.items() if not name.endswith("num_batches_tracked")}
    conversion = convert_hrnet_checkpoint(save({**trunk, **tensors_of(CLASSIFIER)}))
    assert conversion.configs[:2] == ["querypose_HRNet-W32.yaml", "querypose_light_HRNet-W32.yaml"]
    assert not conversion.overrides and not conversion.fresh

    with torch.device("meta"):
        model = timm.create_model("hrnet_w32", features_only=True, feature_location="")
    model.to_empty(device="cpu")
    ours = {name.removeprefix("backbone.bottom_up."): tensor for name, tensor in conversion.state_dict.items()}
    model.load_state_dict(ours, strict=True)
    assert ours.keys() == trunk.keys() and all(torch.equal(ours[name], tensor) for name, tensor in trunk.items())
    assert sorted(name for names in conversion.dropped.values() for name in names) == sorted(CLASSIFIER)


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
    with pytest.raises(UserError, match=r"20 missing \(backbone.bottom_up.stage4.2.fuse_layers.2.0.0.0.weight"):
        convert_hrnet_checkpoint(save(tensors_of(some)))
    with pytest.raises(UserError, match=r"1 unexpected \(backbone.bottom_up.neck.weight\)"):
        convert_hrnet_checkpoint(save(tensors_of({**shapes, "neck.weight": (2,)})))
    with pytest.raises(
        UserError, match=r"1 misshapen \(backbone.bottom_up.conv2.weight \(64, 64, 1, 1\) instead of \(64, 64, 3, 3\)\)"
    ):
        convert_hrnet_checkpoint(save(tensors_of({**shapes, "conv2.weight": (64, 64, 1, 1)})))
    with pytest.raises(UserError, match="is no HRNet: it lacks transition1.0.0.weight"):
        convert_hrnet_checkpoint(save({"layer1.0.conv1.weight": torch.ones(1)}))
    with pytest.raises(UserError, match="timm cannot build"):
        convert_hrnet_checkpoint(save(tensors_of(original_hrnet(20, all_outputs=True))))
