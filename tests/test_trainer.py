"""The trainer: one loop for float32 and bfloat16, checkpoints, evaluation, a progress bar."""

import io
import json

import pytest
import torch
from detectron2.utils.events import EventStorage
from killed_training import config
from tiny_model import tiny_config
from torch import nn

from querypose.engine import PoseTrainer
from querypose.engine.train_loop import StepTrainer
from querypose.engine.trainer import use_bfloat16
from querypose.engine.training_hooks import ProgressBar


def test_two_steps_leave_metrics_and_a_checkpoint(people, tmp_path):
    opts = ("SOLVER.EMA", 0.0, "MODEL.QUERYPOSE.NUM_STAGES", 2, "DATASETS.TEST", (people,), "INPUT.MIN_SIZE_TEST", 64)
    trainer = PoseTrainer(config(people, tmp_path, "SOLVER.MAX_ITER", 2, *opts))
    assert not trainer._trainer.bfloat16
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    metrics = trainer.train()
    changed = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    trained, evaluated = (json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines())
    assert trained["iteration"] == 1
    losses = {f"loss_{kind}{suffix}" for kind in ("class", "l1", "giou", "keypoint") for suffix in ("", "_0")}
    assert losses < trained.keys()
    assert {"bbox/AP", "keypoints/AP"} < evaluated.keys(), "the last step is evaluated"
    assert metrics["keypoints"]["AP"] == evaluated["keypoints/AP"]
    state = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert state["iteration"] == 1 and state["model"].keys() == trainer.model.state_dict().keys()

    again = PoseTrainer(config(people, tmp_path, "SOLVER.MAX_ITER", 3, *opts))
    again.resume_or_load(resume=True)
    assert again.start_iter == 2
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, trainer.model.state_dict()[name]), name


def test_bfloat16_by_the_config(people, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    trainer = PoseTrainer(config(people, tmp_path, "SOLVER.AMP.ENABLED", True))
    assert trainer._trainer.bfloat16
    with EventStorage():
        trainer._trainer.run_step()
    gradients = [p.grad for p in trainer.model.parameters() if p.requires_grad]
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


def test_bfloat16_step_computes_forward_alone_in_bfloat16():
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
    data = torch.ones(3, 2)
    trainer = StepTrainer(model, [data], torch.optim.SGD(model.parameters(), lr=0.1), bfloat16=True)
    with EventStorage():
        trainer.run_step()
    assert model.dtype == torch.bfloat16 and model.linear.weight.dtype == torch.float32
    torch.testing.assert_close(model.linear.weight, weight - 0.1 * model.linear.weight.grad)
    assert not torch.is_autocast_enabled("cpu")


class FakeTrainer:
    max_iter, start_iter, iter = 30, 10, 20


@pytest.mark.parametrize("enabled", [True, False])
def test_progress_bar(monkeypatch, enabled):
    terminal = io.StringIO()
    terminal.isatty = lambda: enabled
    monkeypatch.setattr("sys.stderr", terminal)
    bar = ProgressBar()
    bar.trainer = FakeTrainer()
    with EventStorage() as storage:
        storage.put_scalar("total_loss", 3.25)
        bar.before_train()
        for _ in range(20):
            bar.after_step()
        bar.after_train()
    text = terminal.getvalue()
    if enabled:
        assert "training" in text and "30/30" in text and "loss=3.25" in text
    else:
        assert text == ""


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
