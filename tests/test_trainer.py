"""The trainer: one loop for float32 and bfloat16, checkpoints, evaluation, averaged weights, a progress bar."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage
from killed_training import config, resumed
from tiny_model import tiny_config
from torch import nn

from querypose.engine import PoseTrainer
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.hooks import ProgressBar, WeightAveraging
from querypose.engine.train_loop import StepTrainer
from querypose.engine.trainer import use_bfloat16


def test_two_steps_leave_metrics_and_a_checkpoint(people, tmp_path):
    opts = ("SOLVER.EMA", 0.0, "MODEL.QUERYPOSE.NUM_STAGES", 2, "DATASETS.TEST", (people,), "INPUT.MIN_SIZE_TEST", 64)
    trainer = PoseTrainer(config(people, tmp_path, "SOLVER.MAX_ITER", 2, *opts))
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    metrics = trainer.train()
    same = [torch.equal(*pair) for pair in zip(before, trainer.model.parameters(), strict=True)]
    assert sum(same) < 0.1 * len(same)
    trained, evaluated = (json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines())
    assert trained["iteration"] == 1
    losses = {f"loss_{kind}{suffix}" for kind in ("class", "l1", "giou", "keypoint") for suffix in ("", "_0")}
    assert losses < trained.keys()
    assert {"bbox/AP", "keypoints/AP"} < evaluated.keys(), "the last step is evaluated"
    assert metrics["keypoints"]["AP"] == evaluated["keypoints/AP"]


def test_bfloat16_computes_the_forward_pass_alone():
    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 1)

        def forward(self, data):
            result = self.linear(data)
            self.dtype = result.dtype
            return {"loss": result.float().square().sum()}

    model = Probe()
    weight = model.linear.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with EventStorage():
        StepTrainer(model, [torch.ones(3, 2)], optimizer, bfloat16=True).run_step()
    assert model.dtype == torch.bfloat16 and model.linear.weight.dtype == torch.float32
    torch.testing.assert_close(model.linear.weight, weight - 0.1 * model.linear.weight.grad)


@pytest.mark.parametrize(
    ("device", "asked", "avx512", "amx", "expected"),
    [
        ("cpu", True, True, False, True),
        ("cpu", True, False, True, True),
        ("cpu", True, False, False, False),
        ("cpu", False, True, True, False),
        ("cuda", True, False, False, True),
        ("cuda:1", False, True, True, False),
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
