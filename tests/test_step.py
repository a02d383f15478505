"""Gradient accumulation, and evaluation with every query and in bfloat16."""

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.utils.events import EventStorage
from tiny_model import NUM_QUERIES, spread, tiny_batch, tiny_config, tiny_model, without_batch_statistics

from querypose.data import TrainingLoader
from querypose.engine import PoseTrainer
from querypose.engine.train_loop import StepTrainer
from querypose.errors import UserError

PERSONS, SIZES = (3, 0, 1, 2), ((64, 96),) * 4


@pytest.mark.parametrize("opts", [("light", "MODEL.QUERYPOSE.TRAIN_QUERIES", "matched"), ("full",)])
@pytest.mark.parametrize("steps", [2, 4])
def test_parts_of_a_batch_add_up_to_its_gradient(opts, steps):
    results = []
    for number in (1, steps):
        model = spread(tiny_model(*opts))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        trainer = StepTrainer(model, [tiny_batch(PERSONS, SIZES)], optimizer, accumulation_steps=number)
        without_batch_statistics(model)  # after the trainer, which sets training mode
        with EventStorage() as storage:
            trainer.run_step()
            total = storage.latest()["total_loss"][0]
        results.append((total, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    (total, gradients), (parts_total, parts_gradients) = results
    assert parts_total == pytest.approx(total, rel=1e-4)
    for name, gradient in gradients.items():
        # ReLUs near their kink differ by rounding, which a convolution of another batch size has
        assert (parts_gradients[name] - gradient).norm() <= 0.02 * gradient.norm() + 1e-6, name


def test_a_batch_that_cannot_be_split():
    cfg = tiny_config("light", "SOLVER.IMS_PER_BATCH", 8, "SOLVER.ACCUMULATION_STEPS", 3)
    with pytest.raises(UserError, match="IMS_PER_BATCH is 8; it must be a multiple of 3 .1 processes x 3 SOLVER"):
        TrainingLoader.from_config(cfg, mapper=None, records=[])


@pytest.mark.parametrize(("topk", "number", "bfloat16"), [(None, NUM_QUERIES, False), (2, 2, True)])
def test_evaluations_run_every_query_unless_asked_and_in_bfloat16_where_asked(monkeypatch, topk, number, bfloat16):
    opts = ("light", "MODEL.QUERYPOSE.TEST.TOPK_POSES", topk, "TEST.AMP.ENABLED", bfloat16)
    model = spread(tiny_model(*opts)).eval()
    model.topk_poses = 2  # the default of 30 is above the number of queries
    dtypes, found = [], []

    @torch.no_grad()
    def evaluate(cfg, model, evaluators=None):
        found.extend(model(tiny_batch(), do_postprocess=False))
        return {}

    model.decoder.keypoint_stages[0].tower.register_forward_hook(lambda *call: dtypes.append(call[-1].dtype))
    monkeypatch.setattr(DefaultTrainer, "test", evaluate)
    PoseTrainer.test(tiny_config(*opts), model)
    assert [len(result) for result in found] == [number] * 2 and model.topk_poses == 2
    assert dtypes == [torch.bfloat16 if bfloat16 else torch.float32]
    assert all(result.pred_keypoints.dtype == torch.float32 for result in found)
