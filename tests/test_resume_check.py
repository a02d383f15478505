"""What may differ between a checkpoint and the config that resumes it: refused with a list, or applied and logged."""

import shutil

import pytest
import torch
from killed_training import Do, config, resumed, state_of
from tiny_model import tiny_config

from querypose.config_checks import leaves
from querypose.engine import resume_check
from querypose.errors import UserError

FROZEN = ("MODEL.TIMM.FROZEN", True, "MODEL.TIMM.NORM", "FrozenBN")
NAMES = [f"keypoint_{number}" for number in range(17)]


def resume(people, folder, *opts):
    return resumed(config(people, folder, "SOLVER.MAX_ITER", 5, *opts))


@pytest.mark.parametrize(
    ("opts", "difference"),
    [
        (("MODEL.QUERYPOSE.NUM_QUERIES", 12), "MODEL.QUERYPOSE.NUM_QUERIES 6 -> 12"),
        (("MODEL.QUERYPOSE.PART_DIVISION", "per_keypoint"), "MODEL.QUERYPOSE.PART_DIVISION None -> 'per_keypoint'"),
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
