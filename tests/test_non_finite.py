"""Steps with NaN or infinity change nothing, are explained, and stop training or are skipped."""

import copy
import errno

import pytest
import torch
from detectron2.engine.hooks import CallbackHook
from detectron2.utils.events import EventStorage
from killed_training import Poison, config, largest_difference
from tiny_model import tiny_batch, tiny_config, tiny_model
from torch import nn

from querypose.engine import PoseTrainer, build_optimizer
from querypose.engine.non_finite import MOST_IN_A_ROW, first_non_finite
from querypose.engine.train_loop import StepTrainer
from querypose.errors import UserError


def poisoned(people, folder, mode, *iterations, opts=()):
    """A trainer, and a list of the states of model and optimizer before each iteration."""
    # checkpoints with the weights themselves
    cfg = config(people, folder, "SOLVER.NON_FINITE", mode, "SOLVER.MAX_ITER", 5, "SOLVER.EMA", 0.0, *opts)
    trainer, before = PoseTrainer(cfg), []

    def remember(trainer):
        before.append(copy.deepcopy((trainer.model.state_dict(), trainer._trainer.optimizer.state_dict())))

    trainer.register_hooks([Poison(*iterations), CallbackHook(before_step=remember)])
    return trainer, before


def test_stop_explains_and_leaves_the_state_before(people, tmp_path):
    opts = ("SOLVER.ACCUMULATION_STEPS", 2, "MODEL.QUERYPOSE.VARIANT", "full")
    trainer, before = poisoned(people, tmp_path, "stop", 2, opts=opts)
    with pytest.raises(UserError) as caught:
        trainer.train()
    text = str(caught.value)
    assert text.startswith("iteration 2: the gradient is not finite; the first tensor that is not: the image 1 of the")
    assert "loss_class nan" in text and "model_0000002.pth" in text and "\n" not in text

    content = torch.load(tmp_path / "non_finite_0000002.pth", weights_only=True)
    assert content["iteration"] == 2 and content["first"] == "the image 1 of the batch"
    assert content["batch"][1]["image"][0, 3, 4] == torch.inf
    assert content["batch"][0]["file_name"] in text and str(content["batch"][1]["image_id"]) in text
    assert content["batch"][0]["instances"]["gt_keypoints"].shape[1:] == (17, 3)

    saved = torch.load(tmp_path / "model_0000002.pth", weights_only=True)
    model, optimizer = before[2]
    assert largest_difference(saved["model"], model) == 0, "BatchNorm's statistics included"
    moments = saved["trainer"]["_trainer"]["optimizer"]["state"]
    assert largest_difference(moments, optimizer["state"]) == 0


def test_a_full_disk_hides_no_diagnosis(people, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer, _ = poisoned(people, tmp_path, "stop", 1)
    for module in ("non_finite", "checkpointer"):
        monkeypatch.setattr(f"querypose.engine.{module}.whole_file", full)
    with pytest.raises(UserError, match="^iteration 1: the gradient .* the image 1 of .* which is not there") as caught:
        trainer.train()
    assert str(caught.value).count("No space left") == 2 and "lower SOLVER.BASE_LR" in str(caught.value)


def test_skip_continues_without_the_step(people, tmp_path, messages):
    trainer, before = poisoned(people, tmp_path, "skip", 1, 3)
    trainer.train()
    assert largest_difference(before[2][0], before[1][0]) == 0
    assert largest_difference(before[3][0], before[2][0]) > 1e-6
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())
    assert "iteration 3: the gradient" in messages() and "the step is skipped" in messages()
    assert (tmp_path / "model_final.pth").is_file()
    assert trainer.storage.history("non_finite_steps").latest() == 2
    assert [when for _, when in trainer.storage.history("total_loss").values()] == [0, 2, 4]


def test_skip_stops_with_a_model_that_only_produces_nan(people, tmp_path):
    trainer, _ = poisoned(people, tmp_path, "skip", opts=("SOLVER.MAX_ITER", 15))
    with torch.no_grad():
        trainer.model.decoder.proposal_boxes.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=f"{MOST_IN_A_ROW} such steps in a row are too many") as caught:
        trainer.train()
    assert "iteration 9: " in str(caught.value) and "the parameter decoder.proposal_boxes.weight" in str(caught.value)


def test_an_infinite_loss_with_a_finite_gradient_changes_nothing_whatever_the_optimizer():
    model = tiny_model("light")
    compute = model.losses

    def with_infinite_constant(*args, **kwargs):
        losses = compute(*args, **kwargs)
        return {**losses, "loss_class": losses["loss_class"] + torch.inf}

    model.losses = with_infinite_constant
    before = [parameter.clone() for parameter in model.parameters()]
    # neither knows of values that are not finite, as PyTorch's fused optimizers do
    for optimizer in (torch.optim.Adagrad(model.parameters()), torch.optim.SGD(model.parameters(), momentum=0.9)):
        loop = StepTrainer(model, [tiny_batch()], optimizer)
        with EventStorage() as storage:
            loop.run_step()
        assert not loop.is_finite and "total_loss" not in storage.histories()
        assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


class Root(nn.Linear):
    """Zero, with gradients that are not finite."""

    def forward(self, batch):
        return {"loss": (0 * super().forward(batch[0]["image"])).sqrt().sum()}


class Steep(nn.Linear):
    def forward(self, batch):
        return {"loss": 1e30 * self.weight.sum()}


@pytest.mark.parametrize(
    ("model", "wanted"),
    [(Root(2, 2), "the gradient of bias"), (Steep(2, 2), "the norm of the gradient, which overflows")],
)
def test_the_first_gradient_is_named(model, wanted):
    loop = StepTrainer(model, [], torch.optim.SGD(model.parameters()))
    losses, where = first_non_finite(loop, [{"image": torch.ones(2)}])
    assert losses["loss"] < torch.inf and where == wanted
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["decoder.keypoint_stages.0.tower.0", "backbone.bottom_up.model.layer2", None])
def test_the_first_output_is_named(name):
    model = tiny_model("light", "MODEL.QUERYPOSE.TRAIN_QUERIES", "matched")
    loop = StepTrainer(model, [], build_optimizer(tiny_config("light"), model))
    if name:
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output: output * torch.inf)
    losses, where = first_non_finite(loop, tiny_batch())
    assert where == (f"the output of {name}" if name else None) and len(losses) == 8
