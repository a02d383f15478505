"""An interrupted run resumes as if nothing had happened: the same weights, optimizer state and learning rate."""

import json
import os
import resource
import signal
from pathlib import Path

import fresh_process
import killed_training
import pytest
import torch
from detectron2.engine import HookBase
from killed_training import config, largest_difference, state_of

from querypose.engine import PoseTrainer
from querypose.engine.signals import Interrupted
from querypose.errors import UserError


class Do(HookBase):
    """Calls `action` before an iteration."""

    def __init__(self, iteration, action):
        self.iteration, self.action = iteration, action

    def before_step(self):
        if self.trainer.iter == self.iteration:
            self.action()


def train(cfg, *hooks):
    trainer = PoseTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.register_hooks(hooks)
    trainer.train()
    return trainer


def kill(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(tmp_path):
    done = fresh_process.run(tmp_path, killed_training.kill_again_and_again, tmp_path, 20, 1)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["strikes"]) == {"write", "replace", "step", "time"} and len(result["strikes"]) == 20
    assert result["starts"] == sorted(result["starts"]) and result["starts"][-1] > 0, "it never falls back"
    assert result["partial"] == []
    assert result["difference"] <= 1e-6


@pytest.mark.parametrize(
    "opts",
    [
        ("DATALOADER.NUM_WORKERS", 1, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
        ("SOLVER.AMP.ENABLED", True, "SOLVER.ACCUMULATION_STEPS", 2, "MODEL.QUERYPOSE.LOSS.HEATMAP_WEIGHT", 1.0),
        ("SEED", -1, "SOLVER.OPTIMIZER", "SGD", "DATALOADER.ASPECT_RATIO_GROUPING", False),
    ],
)
def test_a_run_stopped_by_a_signal_resumes(people, tmp_path, monkeypatch, messages, opts):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    opts = ("SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 100, *opts)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        train(config(people, tmp_path / "two", *opts), Do(2, kill))
    assert caught.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) is handler
    assert "SIGTERM: the state after iteration 2 is in" in messages() and "continue with --resume" in messages()
    saved = torch.load(tmp_path / "two" / "model_0000002.pth", weights_only=True)

    resumed = train(config(people, tmp_path / "two", *opts))
    assert resumed.start_iter == 3
    cfg = config(people, tmp_path / "one", *opts)
    cfg.SEED = saved["trainer"]["hooks"]["SeedSteps"]["seed"]  # what a run without a SEED has chosen
    torch.manual_seed(0)
    alone = PoseTrainer(cfg)
    alone.model.load_state_dict(initial_weights(people, tmp_path, opts))
    alone.train()
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    assert one["trainer"]["_trainer"]["optimizer"]["state"], "an optimizer without state shows nothing"
    assert largest_difference(one, two) <= 1e-6
    assert largest_difference(one["model"], saved["model"]) > 1e-4, "the iterations after it changed something"


def initial_weights(people, folder, opts):
    torch.manual_seed(0)
    return PoseTrainer.build_model(config(people, folder, *opts)).state_dict()


@pytest.fixture
def short_run(people, tmp_path):
    """A finished run with the checkpoints of iterations 1 and 3 and the final one."""
    cfg = config(people, tmp_path / "run", "SOLVER.MAX_ITER", 5)
    train(cfg)
    return Path(cfg.OUTPUT_DIR)


def test_damaged_checkpoints_are_skipped(people, short_run, messages):
    assert (short_run / "last_checkpoint").read_text() == "model_final.pth"
    stray = short_run / ".model_0000005.pth.partial"
    stray.write_bytes(b"half of a file")
    final, third = short_run / "model_final.pth", short_run / "model_0000003.pth"
    final.write_bytes(final.read_bytes()[:-1000])
    content = bytearray(third.read_bytes())
    content[len(content) // 2] ^= 1  # PyTorch would load this
    third.write_bytes(content)

    trainer = PoseTrainer(config(people, short_run))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2 and not stray.exists()
    assert "model_final.pth is damaged" in messages()
    assert "model_0000003.pth is damaged" in messages() and "checksum" in messages()

    (short_run / "model_0000001.pth").write_bytes(b"")
    with pytest.raises(UserError, match="all checkpoints in .* are damaged; move them away"):
        PoseTrainer(config(people, short_run)).resume_or_load(resume=True)


@pytest.mark.parametrize("named", [None, "model_0000099.pth", "../../elsewhere.pth"])
def test_last_checkpoint_may_be_missing_or_wrong(people, short_run, named):
    (short_run / "last_checkpoint").unlink()
    (short_run / "model_final.pth").unlink()
    if named:
        (short_run / "last_checkpoint").write_text(named)
    trainer = PoseTrainer(config(people, short_run))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4


def test_newest_checkpoints_and_the_best_stay(people, tmp_path, monkeypatch):
    monkeypatch.setattr("querypose.engine.checkpoint_hooks.KEPT", 2)
    cfg = config(
        people, tmp_path, "SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 2,
        "DATASETS.TEST", (people,),
    )  # fmt: skip
    figures = iter([30.0, float("nan"), 20.0, 40.0])  # after iterations 1, 3, 5 and, at the end, 7
    trainer = PoseTrainer(cfg)
    trainer.test = lambda cfg, model: {"keypoints": {"AP": next(figures)}}
    trainer.register_hooks([Do(7, lambda: kept.append(json.loads((tmp_path / "model_best.json").read_text())))])
    kept = []
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("model_0*.pth")) == ["model_0000005.pth", "model_0000006.pth"]
    assert kept == [{"metric": "keypoints/AP", "value": 30.0, "iteration": 1}]
    assert json.loads((tmp_path / "model_best.json").read_text())["iteration"] == 7
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 7
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"

    again = PoseTrainer(config(people, tmp_path, "SOLVER.MAX_ITER", 9, "DATASETS.TEST", (people,)))
    again.test = lambda cfg, model: {"keypoints": {"AP": 39.0}}
    again.resume_or_load(resume=True)
    again.train()
    assert json.loads((tmp_path / "model_best.json").read_text())["value"] == 40.0


@pytest.fixture
def full_disk():
    """A function after which no file can grow beyond a few kilobytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_older_checkpoint(people, tmp_path, full_disk, messages):
    cfg = config(people, tmp_path, "SOLVER.MAX_ITER", 7)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    relief = Do(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before))
    train(cfg, Do(2, full_disk), relief)
    kept = "model_0000003.pth cannot be written (File too large); model_0000001.pth from before is kept"
    assert kept in messages() and "(training continues without it)" in messages()
    names = sorted(path.name for path in tmp_path.iterdir() if "model" in path.name)
    assert names == ["model_0000001.pth", "model_0000005.pth", "model_final.pth"]


def test_a_disk_that_is_full_at_the_end_is_an_error(people, tmp_path, full_disk):
    cfg = config(people, tmp_path, "SOLVER.MAX_ITER", 3)
    with pytest.raises(UserError, match=r"model_final.pth cannot be written .*; model_0000001.pth from before is kept"):
        train(cfg, Do(2, full_disk))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not list(tmp_path.glob(".*"))


def test_ctrl_c_during_an_evaluation(people, tmp_path, monkeypatch):
    cfg = config(people, tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", 2, "DATASETS.TEST", (people,))
    trainer = PoseTrainer(cfg)
    trainer.test = lambda cfg, model: kill(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        trainer.train()
    assert caught.value.code == 130
    assert torch.load(tmp_path / "model_0000001.pth", weights_only=True)["trainer"]["iteration"] == 1


def test_a_signal_in_the_last_iteration_does_not_start_an_evaluation(people, tmp_path):
    cfg = config(people, tmp_path, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", (people,))
    trainer = PoseTrainer(cfg)
    trainer.register_hooks([Do(1, kill)])
    trainer.test = lambda cfg, model: pytest.fail("evaluated")
    with pytest.raises(Interrupted):
        trainer.train()
    assert (tmp_path / "model_final.pth").is_file()


def test_a_line_that_was_not_finished_is_cut(people, short_run):
    file = short_run / "metrics.json"
    whole = file.read_text()
    file.write_text(whole + '{"iteration": 4, "total')
    train(config(people, short_run, "SOLVER.MAX_ITER", 6))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert file.read_text().startswith(whole) and lines[-1]["iteration"] == 5
