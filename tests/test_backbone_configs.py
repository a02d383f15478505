"""The configs of every backbone: parameters of Swin, a training step, an inference."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from tiny_model import tiny_batch

from querypose.engine.optimizer import build_optimizer
from querypose.errors import UserError
from querypose.setup_config import setup_config

FOLDER = Path(__file__).resolve().parents[1] / "configs"


def load(name, *opts):
    return setup_config(str(FOLDER / f"querypose_{name}.yaml"), list(opts))


# what torchvision says of its classifiers for 1000 classes
@pytest.mark.parametrize(("size", "dim", "whole"), [("T", 96, 28288354), ("S", 96, 49606258), ("B", 128, 87768224)])
def test_parameters_of_swin(size, dim, whole):
    channels = [dim * 2**stage for stage in range(4)]
    classifier = 2 * channels[-1] + 1000 * channels[-1] + 1000
    norms = 2 * sum(channels)
    fpn = sum(256 * number + 256 + 9 * 256 * 256 + 256 for number in channels)
    with torch.device("meta"):
        backbone = build_backbone(load(f"Swin-{size}", "MODEL.DEVICE", "meta"))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == whole - classifier + norms + fpn


@pytest.mark.parametrize(
    "name", ["R50", "HRNet-W32", "Swin-T", pytest.param("light_HRNet-W48", marks=pytest.mark.slow)]
)
def test_one_training_step_and_one_inference(name):
    # plain SGD with a high rate: AdamW's first step hides the size of gradients, and the paper's rate is below the
    # resolution of some weights
    cfg = load(name, "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "1.0")
    cfg.MODEL.QUERYPOSE.NUM_STAGES = 1
    cfg.MODEL.QUERYPOSE.TOWER_DIM = 32
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
        assert instances.pred_keypoints.shape == (4, 17, 3) and instances.pred_keypoints.isfinite().all()
        assert instances.scores.isfinite().all() and instances.pred_boxes.tensor.isfinite().all()

    before = {key: parameter.sum(dtype=torch.float64) for key, parameter in trained.items()}
    optimizer.step()
    moved = {key for key, parameter in trained.items() if parameter.sum(dtype=torch.float64) != before[key]}
    assert any(key.startswith("backbone.bottom_up.") for key in moved)
    assert any(key.startswith("decoder.keypoint_stages.0.tower") for key in moved)


@pytest.mark.parametrize(
    ("key", "value", "valid"),
    [
        ("MODEL.BACKBONE.NAME", "hrnet", ".*build_hrnet_backbone"),
        ("MODEL.HRNET.NECK", "fpn", "lateral, pooled"),
        ("MODEL.HRNET.NORM", "GN", "BN, FrozenBN, SyncBN"),
        ("MODEL.TIMM.NORM", "frozen", "BN, FrozenBN, SyncBN"),
    ],
)
def test_values_that_cannot_be(key, value, valid):
    with pytest.raises(UserError, match=f"{key} is '{value}'; valid are {valid}"):
        load("HRNet-W32", key, value)
