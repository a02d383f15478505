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
NAMES = [
    *(f"querypose_{name}" for name in ("R50", "R101", "HRNet-W32", "HRNet-W48")),
    *(f"querypose_Swin-{size}" for size in "TSBL"),
    *(f"querypose_light_{name}" for name in ("R50", "HRNet-W32", "HRNet-W48")),
    *(f"50_queries/querypose_{name}" for name in ("R50", "HRNet-W32", "HRNet-W48")),
]
SLOW = ("HRNet-W48", "Swin-B", "Swin-L", "R101")


def load(name, *opts):
    return setup_config(str(FOLDER / f"{name}.yaml"), list(opts))


# what torchvision says of its classifiers for 1000 classes
@pytest.mark.parametrize(("size", "dim", "whole"), [("T", 96, 28288354), ("S", 96, 49606258), ("B", 128, 87768224)])
def test_parameters_of_swin(size, dim, whole):
    channels = [dim * 2**stage for stage in range(4)]
    classifier = 2 * channels[-1] + 1000 * channels[-1] + 1000
    norms = 2 * sum(channels)
    fpn = sum(256 * number + 256 + 9 * 256 * 256 + 256 for number in channels)
    with torch.device("meta"):
        backbone = build_backbone(load(f"querypose_Swin-{size}", "MODEL.DEVICE", "meta"))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == whole - classifier + norms + fpn


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.endswith(SLOW) or "50_queries" in name else ())
        for name in NAMES
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
