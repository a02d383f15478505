"""An interrupted run resumes as if nothing had happened; what may differ in its config is applied, the rest refused."""

import functools
import json
import os
import random
import resource
import shutil
import signal
import time

import fresh_process
import killed_training
import pytest
import torch
from killed_training import Do, config, largest_difference, resumed, state_of, train
from tiny_model import tiny_config

from querypose.config_checks import leaves
from querypose.engine import PoseTrainer, resume_check
from querypose.engine.checkpointer import PoseCheckpointer
from querypose.engine.hooks import Interrupted
from querypose.errors import UserError


def kill(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)


@pytest.mark.slow
def test_kills_leave_no_trace(people, tmp_path):
    folder, starts, draw = tmp_path / "killed", [], random.Random(1)

    def start(*args):
        return fresh_process.start(tmp_path / "output", killed_training.train_until_struck, people, *args)

    for kind, most in 2 * [("write", 150), ("time", 1), ("replace", 3), ("step", 4)]:
        (folder / "started").unlink(missing_ok=True)
        child = start(folder, kind, draw.randrange(most))
        if kind == "time":
            while not (folder / "started").is_file() and child.is_alive():
                time.sleep(0.005)
            time.sleep(0.3 * draw.random())
            child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"{kind}: the training ended after {len(starts)} kills"
        starts.append(int((folder / "started").read_text()))
        checkpoint = PoseCheckpointer(torch.nn.Identity(), str(folder)).get_checkpoint_file()
        assert checkpoint or starts[-1] == 0, "no whole checkpoint is left"
    for last in (folder, tmp_path / "alone"):
        child = start(last)
        child.join()
        assert child.exitcode == 0
    assert starts == sorted(starts) and starts[-1] > 0, "it never falls back"
    assert not list(folder.glob("*.partial")) and not list(folder.glob(".*.partial"))
    assert largest_difference(state_of(tmp_path / "alone"), state_of(folder)) <= 1e-6


@pytest.mark.parametrize(
    ("stop", "opts"),
    [
        (SystemExit, ("DATALOADER.NUM_WORKERS", 1, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")),
        (SystemExit, ("SEED", -1, "SOLVER.OPTIMIZER", "SGD", "DATALOADER.ASPECT_RATIO_GROUPING", False)),
        (UserError, ("SOLVER.ACCUMULATION_STEPS", 2, "MODEL.QUERYPOSE.LOSS.HEATMAP_WEIGHT", 1.0)),
        (RuntimeError, ("SOLVER.EMA", 0.0)),
    ],
)
def test_a_stopped_run_resumes(people, tmp_path, messages, stop, opts):
    """By a signal within iteration 2, which is finished first, or an error in iteration 3, which is done again."""
    opts = ("SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 100, *opts)
    handler = signal.getsignal(signal.SIGTERM)

    def fail(*args):
        loop.forward(loop.model, loop.batch, {})  # BatchNorm's statistics change
        raise stop("an image is gone")

    trainer = PoseTrainer(config(people, tmp_path / "two", *opts))
    loop = trainer._trainer
    initial = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    strikes = Do(2, kill) if stop is SystemExit else Do(3, lambda: setattr(loop, "backward", fail))
    trainer.register_hooks([strikes])
    with pytest.raises(stop) as caught:
        trainer.train()
    assert signal.getsignal(signal.SIGTERM) is handler
    told = str(caught.value) if stop is UserError else messages()
    assert f"the state after iteration 2 is in {tmp_path}/two/model_0000002.pth" in told and "--resume" in told
    if stop is SystemExit:
        assert caught.value.code == 128 + signal.SIGTERM
    saved = torch.load(tmp_path / "two" / "model_0000002.pth", weights_only=True)

    assert train(config(people, tmp_path / "two", *opts)).start_iter == 3
    cfg = config(people, tmp_path / "one", *opts)
    cfg.SEED = saved["trainer"]["hooks"]["SeedSteps"]["seed"]  # what a run without a SEED has chosen
    alone = PoseTrainer(cfg)
    alone.model.load_state_dict(initial)
    alone.train()
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    assert one["trainer"]["_trainer"]["optimizer"]["state"], "an optimizer without state shows nothing"
    assert largest_difference(one, two) <= 1e-6
    assert largest_difference(one["model"], saved["model"]) > 1e-4, "the iterations after it changed something"


def test_an_error_in_the_first_iteration_leaves_nothing_to_resume(people, tmp_path):
    trainer = PoseTrainer(config(people, tmp_path))
    trainer._trainer.backward = lambda batch: (_ for _ in ()).throw(UserError("an image is gone"))
    with pytest.raises(UserError, match="^an image is gone$"):
        trainer.train()
    assert not list(tmp_path.glob("*.pth"))


@pytest.fixture
def run(finished, tmp_path):
    """A finished run with the checkpoints of iterations 1 and 3 and the final one."""
    return shutil.copytree(finished, tmp_path / "run")


def test_damaged_checkpoints_are_skipped(people, run, messages):
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    stray = run / ".model_0000005.pth.partial"
    stray.write_bytes(b"half of a file")
    final, third = run / "model_final.pth", run / "model_0000003.pth"
    final.write_bytes(final.read_bytes()[:-1000])
    content = bytearray(third.read_bytes())
    content[len(content) // 2] ^= 1  # PyTorch would load this
    third.write_bytes(content)
    assert resumed(config(people, run)).start_iter == 2 and not stray.exists()
    assert "model_final.pth is damaged" in messages()
    assert "model_0000003.pth is damaged" in messages() and "checksum" in messages()
    (run / "model_0000001.pth").write_bytes(b"")
    with pytest.raises(UserError, match="all checkpoints in .* are damaged; move them away"):
        resumed(config(people, run))


@pytest.mark.parametrize("named", [None, b"model_0000099.pth", b"../../elsewhere.pth", b"\xff", b"model_0000001.pth\n"])
def test_last_checkpoint_may_be_missing_or_wrong(people, run, named):
    (run / "last_checkpoint").unlink()
    (run / "model_final.pth").unlink()
    if named:
        (run / "last_checkpoint").write_bytes(named)
    (run / "model_best.json").write_text("")
    assert resumed(config(people, run)).start_iter == (2 if named == b"model_0000001.pth\n" else 4)


def test_a_line_that_was_not_finished_is_cut(people, run):
    file = run / "metrics.json"
    whole = file.read_text()
    file.write_text(whole + '{"iteration": 4, "total')
    train(config(people, run, "SOLVER.MAX_ITER", 6))
    assert file.read_text().startswith(whole)
    assert json.loads(file.read_text().splitlines()[-1])["iteration"] == 5


def test_newest_checkpoints_and_the_best_stay(people, tmp_path, monkeypatch):
    monkeypatch.setattr("querypose.engine.checkpointer.KEPT", 2)
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
    again = resumed(config(people, tmp_path, "SOLVER.MAX_ITER", 9, "DATASETS.TEST", (people,)))
    again.test = lambda cfg, model: {people: {"keypoints": {"AP": 39.0}}, "other": {"keypoints": {"AP": 99.0}}}
    again.train()
    assert json.loads((tmp_path / "model_best.json").read_text())["value"] == 40.0


def test_a_full_disk_keeps_the_older_checkpoint_and_is_an_error_at_the_end(people, tmp_path, messages):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    full, relief = (
        functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, limit) for limit in ((20_000, before[1]), before)
    )
    hooks = [Do(2, full), Do(5, relief), Do(6, full)]
    try:
        with pytest.raises(UserError, match="cannot write to .*/model_final.pth: File too large; older checkpoints"):
            train(config(people, tmp_path, "SOLVER.MAX_ITER", 7), *hooks)
    finally:
        relief()
    assert "model_0000003.pth: File too large; older checkpoints are kept" in messages()
    assert "(training continues without it)" in messages()
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model_0000001.pth", "model_0000005.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth" and not list(tmp_path.glob(".*"))


def test_ctrl_c_during_an_evaluation(people, tmp_path):
    cfg = config(people, tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", 2, "DATASETS.TEST", (people,))
    trainer = PoseTrainer(cfg)
    trainer.test = lambda cfg, model: kill(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        trainer.train()
    assert caught.value.code == 130
    assert torch.load(tmp_path / "model_0000001.pth", weights_only=True)["trainer"]["iteration"] == 1


def test_a_signal_in_the_last_iteration_does_not_start_an_evaluation(people, tmp_path):
    trainer = PoseTrainer(config(people, tmp_path, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", (people,)))
    trainer.register_hooks([Do(1, kill)])
    trainer.test = lambda cfg, model: pytest.fail("evaluated")
    with pytest.raises(Interrupted):
        trainer.train()
    assert (tmp_path / "model_final.pth").is_file()


FROZEN = ("MODEL.TIMM.FROZEN", True, "MODEL.TIMM.NORM", "FrozenBN")
NAMES = [f"keypoint_{number}" for number in range(17)]


def resume(people, folder, *opts):
    return resumed(config(people, folder, "SOLVER.MAX_ITER", 5, *opts))


@pytest.mark.parametrize(
    ("opts", "difference"),
    [
        (("MODEL.QUERYPOSE.NUM_QUERIES", 12), "MODEL.QUERYPOSE.NUM_QUERIES 6 -> 12"),
        (("MODEL.QUERYPOSE.PART_DIVISION", "per_keypoint"), "MODEL.QUERYPOSE.PART_DIVISION None -> 'per_keypoint'"),
        (("MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION", 20), "ROI_KEYPOINT_HEAD.POOLER_RESOLUTION"),
        (FROZEN, "MODEL.TIMM.FROZEN False -> True"),
        (("SOLVER.OPTIMIZER", "SGD"), "SOLVER.OPTIMIZER 'ADAMW' -> 'SGD'"),
        (("SOLVER.BACKBONE_MULTIPLIER", 0.1), "SOLVER.BACKBONE_MULTIPLIER 1.0 -> 0.1"),
        (("MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES", NAMES), "SKELETON.KEYPOINT_NAMES [] -> ['keypoint_0', 'key"),
        (("SOLVER.MAX_ITER", 3), "already done 5 iterations, and SOLVER.MAX_ITER is 3"),
    ],
)
def test_another_model_or_optimizer_is_refused(people, finished, opts, difference):
    with pytest.raises(UserError) as caught:
        resume(people, finished, *opts)
    assert difference in str(caught.value)
    if "MAX_ITER" not in difference:
        assert f"give MODEL.WEIGHTS {finished}/model_final.pth and another OUTPUT_DIR" in str(caught.value)


def test_checkpoints_without_a_config_are_compared_by_their_tensors(people, finished, tmp_path):
    """As checkpoints of earlier versions are."""
    folder = shutil.copytree(finished, tmp_path / "run")
    torch.save(state_of(folder), folder / "model_final.pth")
    with pytest.raises(UserError, match=r"decoder.instance_queries.weight \(6, 16\) -> \(12, 16\)"):
        resume(people, folder, "MODEL.QUERYPOSE.NUM_QUERIES", 12)
    with pytest.raises(UserError, match="parameter groups"):
        resume(people, folder, *FROZEN)
    assert resume(people, folder).start_iter == 5
    torch.save({"model": state_of(finished)["model"]}, folder / "model_final.pth")
    with pytest.raises(UserError, match="contains weights only"):
        resume(people, folder)


def test_the_keys_exist():
    keys = [key for key, _ in leaves(tiny_config("light"))]
    for pattern, number in ((resume_check.FREE_MODEL_KEYS, 15), (resume_check.FIXED_KEYS, 6)):
        assert sum(pattern.fullmatch(key) is not None for key in keys) >= number


def test_learning_rate_schedule_and_batch_are_applied_and_logged(people, finished, tmp_path, messages):
    opts = ("SOLVER.BASE_LR", 0.002, "SOLVER.STEPS", (2, 6), "SOLVER.GAMMA", 0.5, "SOLVER.WARMUP_ITERS", 0)
    opts += ("SOLVER.IMS_PER_BATCH", 1, "SOLVER.MAX_ITER", 7, "SOLVER.WEIGHT_DECAY", 0.03)
    opts += ("MODEL.QUERYPOSE.LOSS.L1_WEIGHT", 1.0)
    trainer = resume(people, shutil.copytree(finished, tmp_path / "run"), *opts)
    assert "SOLVER.BASE_LR 0.001 -> 0.002" in messages() and "SOLVER.IMS_PER_BATCH 2 -> 1" in messages()
    rates = []
    groups = trainer._trainer.optimizer.param_groups
    trainer.register_hooks([Do(number, lambda: rates.append(groups[0]["lr"])) for number in (5, 6)])
    trainer.train()
    assert rates == [pytest.approx(0.001), pytest.approx(0.0005)] and len(trainer._trainer.batch) == 1
    assert {group["weight_decay"] for group in groups} == {0.03}
