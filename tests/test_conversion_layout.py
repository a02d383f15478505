"""An authors' checkpoint of any size and wrapping is recognized by its tensors, or refused with a list of faults."""

import json

import pytest
import torch
from detectron2.modeling import build_model
from test_conversion_backbones import tensors_of

from querypose.conversion.authors import convert_authors_checkpoint
from querypose.conversion.layout import CONFIG_FOLDER, closest_configs, save_weights
from querypose.errors import UserError
from querypose.safe_loading import find_weights, read_checkpoint
from querypose.setup_config import setup_config

THIRD_GATE = ".updater."
MODELS = {
    "tiny_light": "light_R50",
    "tiny_full": "R50",
    "keys_R50_light": "light_R50",
    "keys_R50_full": "R50",
    "keys_W32_light": "light_HRNet-W32",
    "keys_W48_full": "HRNet-W48",
    "keys_swinL_full": "Swin-L",
}


def read_shapes(shared_folder, name):
    record = json.loads((shared_folder / f"parity/{name}.json").read_text())
    return record.get("state_dict", record)


@pytest.mark.parametrize("name", MODELS)
def test_every_layout_of_the_authors(shared_folder, save, name):
    shapes = read_shapes(shared_folder, name)
    conversion = convert_authors_checkpoint(save({"model": tensors_of(shapes), "iteration": 1}))
    config = f"querypose_{MODELS[name]}.yaml"
    assert conversion.configs == [config] and bool(conversion.overrides) == name.startswith("tiny")

    cfg = setup_config(str(CONFIG_FOLDER / config), [*conversion.overrides, "MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    model.load_state_dict(conversion.state_dict, strict=True, assign=True)
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
    return tensors_of(read_shapes(shared_folder, "tiny_light"))


def test_all_faults_are_listed(save, tiny):
    broken = dict(tiny)
    del broken["head.head_series.1.norm2.weight"]
    del broken["backbone.bottom_up.res3.0.conv1.weight"]
    broken["head.head_series.0.class_logits.weight"] = torch.ones(80, 64)
    broken |= {"roi_heads.box.weight": torch.ones(1), "head.other.1": torch.ones(1)}
    with pytest.raises(UserError) as error:
        convert_authors_checkpoint(save(broken))
    missing, unexpected, misshapen = str(error.value).split("; ")
    assert "2 missing" in missing and "box_stages.1.interaction_norm.weight" in missing
    assert "res3.0.conv1.weight" in missing and unexpected == "2 unexpected (roi_heads.box.weight, head.other.1)"
    assert "1 misshapen (decoder.box_stages.0.class_logit.weight (80, 64) instead of (1, 64))" in misshapen


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("head.head_series.3.norm1.weight", (64,), r"\d+ missing \(decoder.box_stages.3.*and \d+ more"),
        ("part_query.weight", None, "not complete: it has no tensor part_query.weight"),
        ("backbone.bottom_up.res4.7.conv1.weight", (1,), "neither Detectron2's ResNet nor HRNet nor Swin"),
    ],
)
def test_files_that_are_refused(save, tiny, name, shape, words):
    tiny.pop(name, None)
    with pytest.raises(UserError, match=words):
        convert_authors_checkpoint(save(tiny if shape is None else {**tiny, name: torch.ones(shape)}))


def test_counters_of_batch_norm_may_be_missing(save, tiny):
    del tiny["head.pose_head_series.0.part_embed_generator.upsample.1.num_batches_tracked"]
    found = convert_authors_checkpoint(save(tiny)).state_dict
    prefix = "decoder.keypoint_stages.0.part_embedding.upsample.1"
    assert f"{prefix}.running_mean" in found and f"{prefix}.num_batches_tracked" not in found


def test_another_model_is_refused(save):
    with pytest.raises(UserError, match="is not the authors' QueryPose: it has no keypoint heads"):
        convert_authors_checkpoint(save({"layer1.weight": torch.ones(2)}))


def test_closest_configs():
    resnet = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH": 50}
    names, overrides = closest_configs(resnet)
    assert names[0] == "querypose_R50.yaml" and "querypose_light_R50.yaml" in names and not overrides
    fifty, overrides = closest_configs({**resnet, "MODEL.QUERYPOSE.NUM_QUERIES": 50, "MODEL.QUERYPOSE.VARIANT": "full"})
    assert fifty == ["50_queries/querypose_R50.yaml"] and not overrides


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_are_written(tmp_path, ending):
    path = str(tmp_path / f"ours.{ending}")
    tensors = {"a": torch.arange(6.0).view(2, 3).t(), "n": torch.tensor(3)}
    save_weights(tensors, path, author="authors")
    loaded, _ = find_weights(read_checkpoint(path), path)
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[name], tensors[name]) for name in tensors)
