"""The configs of every backbone: as many parameters as there should be, a training step, an inference."""

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_model import tiny_batch
from torch import nn

from querypose.engine.optimizer import build_optimizer
from querypose.errors import UserError
from querypose.setup_config import setup_config

FOLDER = Path(__file__).resolve().parents[1] / "configs"
PARAMETERS = {
    "querypose_R50": 322541640,
    "querypose_R101": 341481544,
    "querypose_HRNet-W32": 327531336,
    "querypose_HRNet-W48": 363783368,
    "querypose_Swin-T": 325993026,
    "querypose_Swin-S": 347310930,
    "querypose_Swin-B": 385340224,
    "querypose_Swin-L": 493839132,
    "querypose_light_R50": 188623176,
    "querypose_light_HRNet-W32": 193612872,
    "querypose_light_HRNet-W48": 229864904,
    "50_queries/querypose_R50": 322541640 - 50 * (256 + 4),
    "50_queries/querypose_HRNet-W32": 327531336 - 50 * (256 + 4),
    "50_queries/querypose_HRNet-W48": 363783368 - 50 * (256 + 4),
}
SLOW = ("HRNet-W48", "Swin-B", "Swin-L", "R101")


def load(name, *opts):
    return setup_config(str(FOLDER / f"{name}.yaml"), list(opts))


def elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def shapes_alone():
    """Models of the configs without numbers in them, each made once."""
    made = {}

    def make(name):
        if name not in made:
            with torch.device("meta"):
                made[name] = build_model(load(name, "MODEL.DEVICE", "meta"))
        return made[name]

    return make


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name, shapes_alone):
    assert elements(shapes_alone(name)) == PARAMETERS[name]


def test_numbers_of_parameters_agree_with_each_other():
    # 17 more bottlenecks in the fourth stage; their BatchNorm is frozen
    bottleneck = 1024 * 256 + 9 * 256 * 256 + 256 * 1024
    assert PARAMETERS["querypose_R101"] - PARAMETERS["querypose_R50"] == 17 * bottleneck
    step_2 = PARAMETERS["querypose_R50"] - PARAMETERS["querypose_light_R50"]
    for width in ("W32", "W48"):
        both = PARAMETERS[f"querypose_HRNet-{width}"], PARAMETERS[f"querypose_light_HRNet-{width}"]
        assert both[0] - both[1] == step_2


# what torchvision says of its classifiers for 1000 classes
@pytest.mark.parametrize(("size", "dim", "whole"), [("T", 96, 28288354), ("S", 96, 49606258), ("B", 128, 87768224)])
def test_parameters_of_swin(size, dim, whole, shapes_alone):
    channels = [dim * 2**stage for stage in range(4)]
    classifier = 2 * channels[-1] + 1000 * channels[-1] + 1000
    norms = 2 * sum(channels)
    fpn = sum(256 * number + 256 + 9 * 256 * 256 + 256 for number in channels)
    backbone = shapes_alone(f"querypose_Swin-{size}").backbone
    assert elements(backbone) == whole - classifier + norms + fpn


NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked", "position_index", "pixel_", "flow.mask")
WITHOUT_FUNCTION = (".fc3.", "norm_fc3", "backbone.fpn_conv.4", "lateral_conv.0")


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("querypose_R50", "R50_full"),
        ("querypose_light_R50", "R50_light"),
        ("querypose_light_HRNet-W32", "W32_light"),
        ("querypose_HRNet-W48", "W48_full"),
        ("querypose_Swin-L", "swinL_full"),
    ],
)
def test_as_many_numbers_as_the_authors_checkpoints(name, keys, shared_folder, shapes_alone):
    theirs = json.loads((shared_folder / f"parity/keys_{keys}.json").read_text())
    counted = sum(
        math.prod(shape)
        for key, shape in theirs.items()
        if not any(part in key for part in NO_PARAMETERS + WITHOUT_FUNCTION)
    )
    model = shapes_alone(name)
    # scales and shifts of frozen BatchNorm are no parameters of ours
    frozen = sum(
        tensor.numel()
        for key, tensor in model.named_buffers()
        if key.startswith("backbone.bottom_up") and key.endswith((".weight", ".bias"))
    )
    assert elements(model) + frozen == counted


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.endswith(SLOW) or "50_queries" in name else ())
        for name in PARAMETERS
    ],
)
def test_one_training_step_and_one_inference(name):
    # plain SGD with a high rate: AdamW's first step hides the size of gradients, and the paper's rate is below the
    # resolution of some weights
    cfg = load(name, "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "1.0")
    cfg.MODEL.QUERYPOSE.NUM_STAGES = 1
    cfg.MODEL.QUERYPOSE.TOWER_DIM = 32
    if "50_queries" not in name:
        cfg.MODEL.QUERYPOSE.NUM_QUERIES = 4
    model = build_model(cfg).train()
    inputs = tiny_batch(sizes=((64, 64), (48, 64)))
    optimizer = build_optimizer(cfg, model)
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}

    losses = model(inputs)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [key for key, parameter in trained.items() if parameter.grad is None] == []
    # before the step, whose rate of 1 may well throw every box out of the image
    with torch.no_grad():
        results = model.eval()([{"image": entry["image"]} for entry in inputs], do_postprocess=False)
    for instances in results:
        assert len(instances) == cfg.MODEL.QUERYPOSE.NUM_QUERIES
        assert instances.pred_keypoints.shape[1:] == (17, 3) and instances.pred_keypoints.isfinite().all()
        assert instances.scores.isfinite().all() and instances.pred_boxes.tensor.isfinite().all()

    before = {key: parameter.sum(dtype=torch.float64) for key, parameter in trained.items()}
    optimizer.step()
    moved = {key for key, parameter in trained.items() if parameter.sum(dtype=torch.float64) != before[key]}
    assert any(key.startswith("backbone.bottom_up.") for key in moved)
    assert any(key.startswith("decoder.keypoint_stages.0.tower") for key in moved)


@pytest.mark.parametrize(
    ("opts", "reason"),
    [
        (("MODEL.BACKBONE.NAME", "hrnet"), "MODEL.BACKBONE.NAME is 'hrnet'; valid are .*build_hrnet_backbone"),
        (("MODEL.HRNET.NECK", "fpn"), "MODEL.HRNET.NECK is 'fpn'; valid are lateral, pooled"),
        (("MODEL.HRNET.NORM", "GN"), "MODEL.HRNET.NORM is 'GN'; valid are BN, FrozenBN, SyncBN"),
        (("MODEL.TIMM.NORM", "frozen"), "MODEL.TIMM.NORM is 'frozen'; valid are BN, FrozenBN, SyncBN"),
    ],
)
def test_values_that_cannot_be(opts, reason):
    with pytest.raises(UserError, match=reason):
        load("querypose_HRNet-W32", *opts)
