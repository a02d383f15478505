"""The moving average of the weights: a closed form, and what is evaluated, saved and loaded of it."""

import pytest
import torch
from killed_training import config
from torch import nn

from querypose.engine import PoseTrainer
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.weight_averaging import WeightAveraging


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
    trainer = PoseTrainer(config(people, tmp_path / "run", "SOLVER.MAX_ITER", 4, "SOLVER.EMA", 0.9))
    tested = []
    monkeypatch.setattr(PoseTrainer, "test", classmethod(lambda cls, cfg, model: tested.append(model) or {}))
    trainer.train()
    averaged, trained = trainer.averaging.averaged.state_dict(), trainer.model.state_dict()
    assert all(model is trainer.averaging.averaged for model in tested) and tested
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    raw = saved["trainer"]["hooks"]["WeightAveraging"]["weights"]
    name = "decoder.instance_queries.weight"
    assert not torch.equal(averaged[name], trained[name])
    for state, wanted in ((saved["model"], averaged), (raw, trained)):
        assert state.keys() == wanted.keys() and all(torch.equal(state[key], wanted[key]) for key in state)
    resumed = PoseTrainer(config(people, tmp_path / "run", "SOLVER.MAX_ITER", 5, "SOLVER.EMA", 0.0))
    resumed.resume_or_load(resume=True)
    assert torch.equal(resumed.model.state_dict()[name], trained[name]), "without averaging from the trained weights"
    model = PoseTrainer.build_model(trainer.cfg)
    PoseCheckpointer(model).load(str(tmp_path / "run" / "model_final.pth"))
    assert torch.equal(model.state_dict()[name], averaged[name])
