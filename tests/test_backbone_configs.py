"""The configs of every backbone: a training step, an inference."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_model import tiny_batch

from querypose.setup_config import setup_config

FOLDER = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize(
    "name", ["R50", "HRNet-W32", "Swin-T", pytest.param("light_HRNet-W48", marks=pytest.mark.slow)]
)
def test_one_training_step_and_one_inference(name):
    cfg = setup_config(str(FOLDER / f"querypose_{name}.yaml"), ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    cfg.MODEL.QUERYPOSE.NUM_STAGES = 1
    cfg.MODEL.QUERYPOSE.TOWER_DIM = 32
    cfg.MODEL.QUERYPOSE.NUM_QUERIES = 4
    model = build_model(cfg).train()
    inputs = tiny_batch(sizes=((64, 64), (48, 64)))
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}

    losses = model(inputs)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [key for key, parameter in trained.items() if parameter.grad is None] == []
    for part in ("backbone.bottom_up.", "decoder.keypoint_stages.0.tower"):
        assert any(parameter.grad.any() for key, parameter in trained.items() if key.startswith(part))
    with torch.no_grad():
        results = model.eval()([{"image": entry["image"]} for entry in inputs], do_postprocess=False)
    for instances in results:
        assert instances.pred_keypoints.shape == (4, 17, 3) and instances.pred_keypoints.isfinite().all()
        assert instances.scores.isfinite().all() and instances.pred_boxes.tensor.isfinite().all()
