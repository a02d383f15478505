"""The trainer: steps, in parts and in bfloat16, evaluation, averaged weights, a progress bar."""

import io
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.utils.events import EventStorage
from killed_training import config, resumed
from tiny_model import NUM_QUERIES, spread, tiny_batch, tiny_config, tiny_model, without_batch_statistics
from torch import nn

from querypose.engine import PoseTrainer
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.hooks import ProgressBar, WeightAveraging
from querypose.engine.train_loop import StepTrainer
from querypose.engine.trainer import use_bfloat16


def test_bfloat16_computes_the_forward_pass_alone():
    model, dtypes = tiny_model(), []
    model.decoder.keypoint_stages[0].tower.register_forward_hook(lambda *call: dtypes.append(call[-1].dtype))
    before = model.decoder.instance_queries.weight.clone()
    with EventStorage():
        StepTrainer(model, [tiny_batch()], torch.optim.SGD(model.parameters(), lr=0.1), bfloat16=True).run_step()
    assert dtypes == [torch.bfloat16] and {p.dtype for p in model.parameters()} == {torch.float32}
    query = model.decoder.instance_queries.weight
    torch.testing.assert_close(query, before - 0.1 * query.grad)


@pytest.mark.parametrize(
    ("device", "asked", "avx512", "amx", "expected"),
    [
        ("cpu", True, True, False, True),
        ("cpu", True, False, True, True),
        ("cpu", True, False, False, False),
        ("cpu", False, True, True, False),
        ("cuda", True, False, False, True),
    ],
)
def test_bfloat16_only_where_the_processor_computes_it(monkeypatch, device, asked, avx512, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert use_bfloat16(tiny_config("light", "MODEL.DEVICE", device, "SOLVER.AMP.ENABLED", asked)) is expected


def test_the_average_decays_by_every_step():
    model = nn.BatchNorm1d(1)
    averaging = WeightAveraging(model, 0.75)
    wanted = None
    for weight in (2.0, 6.0, -2.0, 10.0):
        nn.init.constant_(model.weight, weight)
        model.running_mean.fill_(weight)
        averaging.after_step()
        wanted = weight if wanted is None else 0.75 * wanted + 0.25 * weight
        assert averaging.averaged.weight.item() == pytest.approx(wanted)
        assert averaging.averaged.running_mean.item() == weight, "statistics are the latest"


def test_averaged_weights_are_evaluated_saved_and_loaded(people, tmp_path, monkeypatch):
    trainer = PoseTrainer(config(people, tmp_path, "SOLVER.MAX_ITER", 3, "SOLVER.EMA", 0.9))
    tested = []
    monkeypatch.setattr(PoseTrainer, "test", classmethod(lambda cls, cfg, model: tested.append(model) or {}))
    trainer.train()
    averaged, trained = trainer.averaging.averaged.state_dict(), trainer.model.state_dict()
    assert all(model is trainer.averaging.averaged for model in tested) and tested
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    raw = saved["trainer"]["hooks"]["WeightAveraging"]["weights"]
    name = "decoder.instance_queries.weight"
    assert not torch.equal(averaged[name], trained[name])
    for state, wanted in ((saved["model"], averaged), (raw, trained)):
        assert state.keys() == wanted.keys() and all(torch.equal(state[key], wanted[key]) for key in state)
    without = resumed(config(people, tmp_path, "SOLVER.MAX_ITER", 5, "SOLVER.EMA", 0.0))
    assert torch.equal(without.model.state_dict()[name], trained[name]), "without averaging from the trained weights"
    PoseCheckpointer(without.model).load(str(tmp_path / "model_final.pth"))
    assert torch.equal(without.model.state_dict()[name], averaged[name])


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


@pytest.mark.parametrize("enabled", [True, False])
def test_progress_bar(monkeypatch, enabled):
    terminal = io.StringIO()
    terminal.isatty = lambda: enabled
    monkeypatch.setattr("sys.stderr", terminal)
    bar = ProgressBar()
    with EventStorage() as storage:
        storage.put_scalar("total_loss", 3.25)
        bar.trainer = SimpleNamespace(max_iter=30, start_iter=10, iter=20, storage=storage)
        bar.before_train()
        for _ in range(20):
            bar.after_step()
        bar.after_train()
    text = terminal.getvalue()
    assert "30/30" in text and "loss=3.25" in text if enabled else text == ""
