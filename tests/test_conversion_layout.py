"""An authors' checkpoint of any size and wrapping is recognised by its tensors, or refused with a list of faults."""

import json
import math
import os

import pytest
import torch
from detectron2.modeling import build_model

from querypose.conversion import backbone_of, convert_authors_checkpoint, publishable_weights, save_whole
from querypose.conversion.files import PLAIN_WEIGHTS, load_tensors
from querypose.conversion.layout import CONFIG_FOLDER, closest_configs
from querypose.errors import UserError
from querypose.setup_config import setup_config

THIRD_GATE = ".updater."
TINY = {
    "MODEL.RESNETS.DEPTH": "18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "64",
    "MODEL.FPN.OUT_CHANNELS": "64",
    "MODEL.QUERYPOSE.NUM_QUERIES": "12",
    "MODEL.QUERYPOSE.NUM_STAGES": "3",
    "MODEL.QUERYPOSE.HIDDEN_DIM": "64",
    "MODEL.QUERYPOSE.PART_DIM": "32",
    "MODEL.QUERYPOSE.FEEDFORWARD_DIM": "128",
    "MODEL.QUERYPOSE.DYNAMIC_DIM": "16",
    "MODEL.QUERYPOSE.NUM_TOWER_LAYERS": "3",
    "MODEL.QUERYPOSE.TOWER_DIM": "128",
}
MODELS = {
    "tiny_light": ("querypose_light_R50.yaml", TINY),
    "tiny_full": ("querypose_R50.yaml", TINY),
    "keys_R50_light": ("querypose_light_R50.yaml", {}),
    "keys_R50_full": ("querypose_R50.yaml", {}),
    "keys_W32_light": ("querypose_light_HRNet-W32.yaml", {}),
    "keys_W48_full": ("querypose_HRNet-W48.yaml", {}),
    "keys_swinL_full": ("querypose_Swin-L.yaml", {}),
}


def of_one_number(shapes):
    """Tensors of these shapes that take no space: each repeats a number of its own, the tensor's place in the file."""
    return {name: torch.tensor(float(index)).expand(shape) for index, (name, shape) in enumerate(shapes.items())}


def read_shapes(shared_folder, name):
    record = json.loads((shared_folder / f"parity/{name}.json").read_text())
    return record.get("state_dict", record)


@pytest.fixture
def save(tmp_path):
    def write(content):
        path = tmp_path / "theirs.pth"
        torch.save(content, path)
        return str(path)

    return write


@pytest.mark.parametrize("name", MODELS)
def test_every_layout_of_the_authors(shared_folder, save, name):
    shapes = read_shapes(shared_folder, name)
    conversion = convert_authors_checkpoint(save({"model": of_one_number(shapes), "iteration": 1}))
    config, overrides = MODELS[name]
    assert conversion.configs == [config]
    assert dict(zip(conversion.overrides[::2], conversion.overrides[1::2], strict=True)) == overrides

    cfg = setup_config(str(CONFIG_FOLDER / config), [*conversion.overrides, "MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    converted = {key: tuple(tensor.shape) for key, tensor in conversion.state_dict.items()}
    assert converted == {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert not conversion.fresh

    # nothing but the named tensors is lost, nothing but the computed index is added
    dropped = [key for names in conversion.dropped.values() for key in names]
    stages = cfg.MODEL.QUERYPOSE.NUM_STAGES
    assert sum(THIRD_GATE in key for key in dropped) == 3 * stages
    necks = {
        "keys_W32_light": ["backbone.fpn_conv.4.weight", "backbone.fpn_conv.4.bias"],
        "keys_W48_full": ["backbone.lateral_conv.0.weight", "backbone.fpn_conv.4.weight"],
    }
    others = [key for key in dropped if THIRD_GATE not in key and not key.endswith("relative_position_index")]
    assert others == necks.get(name, [])
    given = sum(math.prod(shape) for key, shape in shapes.items() if key not in dropped)
    computed = sum(len(tensor) for key, tensor in conversion.state_dict.items() if key.endswith("position_index"))
    assert sum(tensor.numel() for tensor in conversion.state_dict.values()) == given + computed
    # every number of the file, each of which one tensor has, is found again
    numbers = {float(index) for index, key in enumerate(shapes) if key not in dropped}
    found = {
        float(value)
        for key, tensor in conversion.state_dict.items()
        if not key.endswith("position_index")
        for value in (tensor.unique() if ".heads." in key or "instance_to_part" in key else tensor.flatten()[:1])
    }
    assert found == numbers


@pytest.fixture
def tiny(shared_folder):
    return of_one_number(read_shapes(shared_folder, "tiny_light"))


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


WRAPPINGS = {
    "bare": lambda tensors: tensors,
    "training checkpoint": lambda tensors: {"model": tensors, "optimizer": {"state": {}}, "iteration": 3},
    "data-parallel": lambda tensors: {"model": prefixed(tensors, "module.")},
    "compiled, in a state_dict": lambda tensors: {"state_dict": prefixed(tensors, "_orig_mod."), "epoch": 3},
    "averaged, beside the optimiser": lambda tensors: {"ema_state": tensors, "iteration": 3},
    "averaged, with its own state": lambda tensors: {"ema": {"decay": 0.99, "module": tensors}},
    "torch's AveragedModel": lambda tensors: {"model": {"n_averaged": torch.tensor(5), **prefixed(tensors, "module.")}},
    "averaged, prefixed": lambda tensors: {"model": prefixed(tensors, "model_ema.module.")},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(save, wrapping):
    tensors = {"backbone.a.weight": torch.ones(2), "pixel_mean": torch.ones(3)}
    loaded, dropped = load_tensors(save(WRAPPINGS[wrapping](tensors)))
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[key], tensors[key]) for key in tensors)
    assert [name for names in dropped.values() for name in names] == ["n_averaged"] * ("torch's" in wrapping)


def test_a_wrapped_model_from_end_to_end(save, tiny):
    plain = convert_authors_checkpoint(save(tiny)).state_dict
    wrapped = convert_authors_checkpoint(save({"model": prefixed(tiny, "module.")})).state_dict
    assert plain.keys() == wrapped.keys() and all(torch.equal(plain[key], wrapped[key]) for key in plain)


@pytest.mark.parametrize("where", ["wrapper", "prefix"])
def test_averaged_weights_come_before_plain_ones(save, where):
    plain = {"a.weight": torch.zeros(2), "a.running_mean": torch.full((2,), 7.0)}
    average = {"a.weight": torch.ones(2)}
    if where == "wrapper":
        content = {"model": plain, "model_ema": average}
    else:
        content = {"model": {**prefixed(average, "ema."), **prefixed(plain, "model.")}}
    loaded, dropped = load_tensors(save(content))
    assert loaded["a.weight"].tolist() == [1, 1]
    # averaging often leaves buffers to the plain model
    assert loaded["a.running_mean"].tolist() == [7, 7]
    assert dropped == {PLAIN_WEIGHTS: ["a.weight"]}


def test_two_models_in_one_file_are_refused(save):
    with pytest.raises(UserError, match="holds two tensors a.weight; save one model alone"):
        load_tensors(save({"module.a.weight": torch.zeros(2), "a.weight": torch.ones(2)}))


def test_all_faults_are_listed_in_the_authors_names(save, tiny):
    broken = dict(tiny)
    del broken["head.head_series.1.norm2.weight"]
    del broken["head.pose_head_series.2.fc_coord.3.linear.bias"]
    del broken["backbone.bottom_up.res3.0.conv1.weight"]
    broken["head.pose_head_series.0.residual_filter.7.weight"] = torch.ones(32, 64)
    broken["roi_heads.box.weight"] = torch.ones(1)
    broken["head.head_series.0.class_logits.weight"] = torch.ones(80, 64)
    broken["head.pose_head_series.1.fc_sigma.0.linear.weight"] = torch.ones(4, 32)
    with pytest.raises(UserError) as error:
        convert_authors_checkpoint(save(broken))
    text = str(error.value)
    missing, unexpected, misshapen = text.split("; ")[:3]
    assert "3 missing" in missing and "\n" not in text
    assert "head.head_series.1.norm2.weight" in missing and "res3.0.conv1.weight" in missing
    assert "head.pose_head_series.2.fc_coord.3.linear.bias" in missing
    assert unexpected == "2 unexpected (head.pose_head_series.0.residual_filter.7.weight, roi_heads.box.weight)"
    assert "2 misshapen" in misshapen
    assert "head.head_series.0.class_logits.weight (80, 64) instead of (1, 64)" in misshapen
    assert "head.pose_head_series.1.fc_sigma.0.linear.weight (4, 32) instead of (10, 32)" in misshapen


def test_a_stage_without_its_other_half_is_refused(save, tiny):
    extra = {
        name.replace("head_series.2.", "head_series.3."): tensor
        for name, tensor in tiny.items()
        if name.startswith("head.head_series.2.")
    }
    with pytest.raises(UserError, match=r"\d+ missing \(head.pose_head_series.3.*and \d+ more"):
        convert_authors_checkpoint(save({**tiny, **extra}))


@pytest.mark.parametrize("missing", ["init_proposal_features.weight", "part_query.weight"])
def test_a_file_without_its_queries_is_refused(save, tiny, missing):
    del tiny[missing]
    with pytest.raises(UserError, match=f"not complete: it has no tensor {missing}"):
        convert_authors_checkpoint(save(tiny))


def test_another_backbone_is_refused(save, tiny):
    renamed = {name.replace("bottom_up.", "bottom_up.vit."): tensor for name, tensor in tiny.items()}
    with pytest.raises(UserError, match="neither Detectron2's ResNet nor HRNet nor Swin"):
        convert_authors_checkpoint(save(renamed))
    longer = {"backbone.bottom_up.res4.7.conv1.weight": torch.ones(1), **tiny}
    with pytest.raises(UserError, match=r"\(2, 2, 8, 2\) blocks"):
        convert_authors_checkpoint(save(longer))


def test_counters_of_batch_norm_may_differ(save, tiny):
    counter = "head.pose_head_series.0.part_embed_generator.upsample.1.num_batches_tracked"
    del tiny[counter]
    conversion = convert_authors_checkpoint(save(tiny))
    ours = "decoder.keypoint_stages.0.part_embedding.upsample.1.num_batches_tracked"
    assert conversion.state_dict[ours].dtype == torch.int64 and conversion.state_dict[ours] == 0


def test_closest_configs():
    resnet = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH": 50}
    names, overrides = closest_configs(resnet)
    assert names[0] == "querypose_R50.yaml" and "querypose_light_R50.yaml" in names and not overrides
    fifty, overrides = closest_configs({**resnet, "MODEL.QUERYPOSE.NUM_QUERIES": 50, "MODEL.QUERYPOSE.VARIANT": "full"})
    assert fifty == ["50_queries/querypose_R50.yaml"] and not overrides
    _, overrides = closest_configs({**resnet, "MODEL.RESNETS.DEPTH": 101, "MODEL.QUERYPOSE.VARIANT": "light"})
    assert len(overrides) == 2
    with pytest.raises(UserError, match="no config in .* has the backbone build_vit"):
        closest_configs({"MODEL.BACKBONE.NAME": "build_vit"})


def test_published_weights_are_half_and_without_losses(save):
    content = {"decoder.a": torch.ones(3), "decoder.n": torch.tensor(3), "criterion.flow.b": torch.ones(2)}
    conversion = publishable_weights(save({"model": content, "optimizer": {"state": {}}}))
    assert {key: tensor.dtype for key, tensor in conversion.state_dict.items()} == {
        "decoder.a": torch.float16,
        "decoder.n": torch.int64,
    }
    assert list(conversion.dropped.values()) == [["criterion.flow.b"]]


def test_a_backbone_is_taken_out_of_a_model(save):
    content = {"backbone.a": torch.ones(3).half(), "backbone.n": torch.tensor(3), "decoder.b": torch.ones(2)}
    conversion = backbone_of(save({"model": content}))
    assert {key: tensor.dtype for key, tensor in conversion.state_dict.items()} == {
        "backbone.a": torch.float32,
        "backbone.n": torch.int64,
    }
    assert list(conversion.dropped.values()) == [["decoder.b"]]
    with pytest.raises(UserError, match=r"no tensor named backbone\.\*; give a checkpoint or weights of ours"):
        backbone_of(save({"decoder.b": torch.ones(2)}))


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "ours.pth"
    save_whole({"a": torch.ones(2)}, str(path), author="authors")
    assert torch.load(path)["model"]["a"].tolist() == [1, 1]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        save_whole({"a": torch.zeros(2)}, str(path), author="authors")
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="does not exist; create it"):
        save_whole({}, str(tmp_path / "nowhere" / "ours.pth"), author="authors")

    def full_disk(content, file):
        with open(file, "wb") as half:
            half.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_whole({}, str(tmp_path / "other.pth"), author="authors")
    assert [file.name for file in tmp_path.iterdir()] == ["ours.pth"]


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
