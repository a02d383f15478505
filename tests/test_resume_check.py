"""What may differ between a checkpoint and the config that resumes it: refused with a list, or applied and logged."""

import functools
import shutil

import pytest
import torch
from killed_training import config, largest_difference, state_of
from test_resume import Do, train
from tiny_model import tiny_config

from querypose.engine import PoseTrainer, resume_check
from querypose.errors import UserError

FROZEN = ("MODEL.TIMM.FROZEN", True, "MODEL.TIMM.NORM", "FrozenBN")
NAMES = [f"keypoint_{number}" for number in range(17)]


def run_config(people, folder, *opts):
    return config(people, folder, "SOLVER.MAX_ITER", 4, "MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES", NAMES, *opts)


@pytest.fixture(scope="module")
def finished(people, tmp_path_factory):
    """The folder of a run of 4 iterations; copy it to write into it."""
    folder = tmp_path_factory.mktemp("run")
    train(run_config(people, folder))
    return folder


def resume(people, folder, *opts):
    trainer = PoseTrainer(run_config(people, folder, *opts))
    trainer.resume_or_load(resume=True)
    return trainer


@pytest.mark.parametrize(
    ("opts", "difference"),
    [
        (("MODEL.QUERYPOSE.NUM_QUERIES", 12), "MODEL.QUERYPOSE.NUM_QUERIES 6 -> 12"),
        (("MODEL.QUERYPOSE.NUM_STAGES", 2), "MODEL.QUERYPOSE.NUM_STAGES 1 -> 2"),
        (("MODEL.QUERYPOSE.PART_DIVISION", "per_keypoint"), "MODEL.QUERYPOSE.PART_DIVISION None -> 'per_keypoint'"),
        (FROZEN, "MODEL.TIMM.FROZEN False -> True"),
        (("SOLVER.OPTIMIZER", "SGD"), "SOLVER.OPTIMIZER 'ADAMW' -> 'SGD'"),
        (("SOLVER.BACKBONE_MULTIPLIER", 0.1), "SOLVER.BACKBONE_MULTIPLIER 1.0 -> 0.1"),
        (("MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES", NAMES[::-1]), "KEYPOINT_NAMES ['keypoint_0', .* -> ['keypoint_16"),
    ],
)
def test_another_model_or_optimizer_is_refused(people, finished, opts, difference):
    with pytest.raises(UserError) as caught:
        resume(people, finished, *opts)
    text = str(caught.value)
    first, _, last = difference.partition(".*")
    assert first in text and last in text, text
    assert f"give MODEL.WEIGHTS {finished}/model_final.pth and another OUTPUT_DIR" in text


def test_checkpoints_without_a_config_are_compared_by_their_tensors(people, finished, tmp_path):
    """As checkpoints of earlier versions are."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    torch.save(state_of(folder), folder / "model_final.pth")
    with pytest.raises(UserError, match=r"decoder.instance_queries.weight \(6, 16\) -> \(12, 16\)"):
        resume(people, folder, "MODEL.QUERYPOSE.NUM_QUERIES", 12)
    with pytest.raises(UserError, match="parameter groups"):
        resume(people, folder, *FROZEN)
    assert resume(people, folder).start_iter == 4
    torch.save({"model": state_of(finished)["model"]}, folder / "model_final.pth")
    with pytest.raises(UserError, match="contains weights only"):
        resume(people, folder)


def test_the_keys_exist():
    cfg = tiny_config("light")
    for key in resume_check.FREE_MODEL_KEYS + resume_check.FIXED_KEYS:
        assert functools.reduce(lambda node, name: node.get(name, "gone"), key.split("."), cfg) != "gone", key


def test_fewer_iterations_than_are_done(people, finished):
    with pytest.raises(UserError, match="already done 4 iterations, and SOLVER.MAX_ITER is 3"):
        resume(people, finished, "SOLVER.MAX_ITER", 3)


def test_learning_rate_schedule_and_batch_are_applied_and_logged(people, finished, tmp_path, messages):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    opts = ("SOLVER.BASE_LR", 0.002, "SOLVER.STEPS", (2, 5), "SOLVER.GAMMA", 0.5, "SOLVER.WARMUP_ITERS", 0)
    opts += ("SOLVER.IMS_PER_BATCH", 1, "SOLVER.MAX_ITER", 6, "SOLVER.WEIGHT_DECAY", 0.03)
    trainer = resume(people, folder, *opts)
    assert "SOLVER.BASE_LR 0.001 -> 0.002" in messages() and "SOLVER.IMS_PER_BATCH 2 -> 1" in messages()
    rates = []
    groups = trainer._trainer.optimizer.param_groups
    trainer.register_hooks([Do(number, lambda: rates.append(groups[0]["lr"])) for number in (4, 5)])
    trainer.train()
    assert rates == [pytest.approx(0.001), pytest.approx(0.0005)] and len(trainer._trainer.batch) == 1
    assert {group["weight_decay"] for group in groups} == {0.03}


@pytest.mark.parametrize("error", [UserError, RuntimeError])
def test_an_error_in_the_middle_saves_what_is_done(people, tmp_path, messages, error):
    def fail(*args):
        loop.forward(loop.model, loop.batch, {})  # BatchNorm's statistics change
        raise error("an image is gone")

    trainer = PoseTrainer(run_config(people, tmp_path / "two", "SOLVER.CHECKPOINT_PERIOD", 100))
    loop = trainer._trainer
    initial = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.register_hooks([Do(2, lambda: setattr(loop, "backward", fail))])
    with pytest.raises(error, match="an image is gone") as caught:
        trainer.train()
    told = str(caught.value) if error is UserError else messages()
    assert f"the state after iteration 1 is in {tmp_path}/two/model_0000001.pth: continue with --resume" in told
    train(run_config(people, tmp_path / "two"))
    alone = PoseTrainer(run_config(people, tmp_path / "one"))
    alone.model.load_state_dict(initial)
    alone.train()
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    assert largest_difference(one["model"], two["model"]) <= 1e-6


def test_an_error_in_the_first_iteration_leaves_nothing_to_resume(people, tmp_path):
    trainer = PoseTrainer(run_config(people, tmp_path))
    trainer._trainer.backward = lambda batch: (_ for _ in ()).throw(UserError("an image is gone"))
    with pytest.raises(UserError, match="^an image is gone$"):
        trainer.train()
    assert not list(tmp_path.glob("*.pth"))
