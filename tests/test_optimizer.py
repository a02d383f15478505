"""Parameter groups, the registry of optimizers, clipping, and two steps of AdamW and SGD by hand."""

import pytest
import torch
from tiny_model import tiny_config, tiny_model
from torch import nn

from querypose.config_checks import check_config
from querypose.engine.optimizer import OPTIMIZER_REGISTRY, build_optimizer, clip_gradients, parameter_groups
from querypose.errors import UserError


@pytest.fixture(scope="module")
def model():
    return tiny_model("full")


def groups_by_name(cfg, model):
    """(learning rate, weight decay) of every trainable parameter, each of which is in one group."""
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = parameter_groups(cfg, model)
    found = {names.pop(p): (pytest.approx(g["lr"]), g["weight_decay"]) for g in groups for p in g["params"]}
    assert not names
    return len(groups), found


def test_the_flow_learns_ten_times_as_fast(model):
    number, found = groups_by_name(tiny_config("full"), model)
    assert number == 2
    for name, group in found.items():
        assert group == (2.5e-4 if name.startswith("criterion.keypoint_loss.flow.") else 2.5e-5, 1e-4)


def test_groups_by_the_config(model):
    cfg = tiny_config("full", "SOLVER.BACKBONE_MULTIPLIER", 0.1, "SOLVER.BIAS_LR_FACTOR", 2.0)
    cfg.SOLVER.WEIGHT_DECAY_NORM = cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    _, found = groups_by_name(cfg, model)
    assert found["backbone.fpn_lateral2.weight"] == (2.5e-6, 1e-4)
    assert found["backbone.fpn_lateral2.bias"] == (5e-6, 0.0)
    assert found["decoder.box_stages.0.interaction_norm.weight"] == (2.5e-5, 0.0)
    assert found["decoder.part_queries.weight"] == (2.5e-5, 1e-4)
    assert found["criterion.keypoint_loss.flow.scale.0.0.weight"] == (2.5e-4, 1e-4)


def model_with_gradients(*gradients):
    model = nn.Module()
    for index, gradient in enumerate(gradients):
        parameter = nn.Parameter(torch.ones(len(gradient)))
        parameter.grad = torch.tensor(gradient)
        model.register_parameter(f"p{index}", parameter)
    return model


@pytest.mark.parametrize(
    ("opts", "wanted"),
    [
        ((), ([0.6, 0.0], [0.0, 0.8])),  # the norm of both, 5, becomes 1
        (("CLIP_TYPE", "norm"), ([1.0, 0.0], [0.0, 1.0])),
        (("CLIP_TYPE", "value", "CLIP_VALUE", 3.5), ([3.0, 0], [0, 3.5])),
        (("CLIP_VALUE", 7.0), ([3.0, 0.0], [0.0, 4.0])),
        (("ENABLED", False), ([3.0, 0.0], [0.0, 4.0])),
    ],
)
def test_clipping(opts, wanted):
    model = model_with_gradients([3.0, 0.0], [0.0, 4.0])
    clip = tiny_config("light").SOLVER.CLIP_GRADIENTS
    clip.merge_from_list(list(opts))
    assert clip_gradients(list(model.parameters()), clip) == 5
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, torch.tensor(gradient))


def test_adamw_s_first_two_steps_by_hand():
    model = model_with_gradients([0.3, -0.5])
    optimizer = build_optimizer(tiny_config("light", "SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.01), model)
    weight, first, second = torch.ones(2), torch.zeros(2), torch.zeros(2)
    for step, gradient in enumerate((torch.tensor([0.3, -0.5]), torch.tensor([0.1, 0.2])), start=1):
        model.p0.grad = gradient.clone()
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weight = weight - 0.1 * 0.01 * weight
        weight = weight - 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.testing.assert_close(model.p0.detach(), weight)


def test_sgd_s_first_two_steps_by_hand():
    model = model_with_gradients([3.0, 4.0])
    opts = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.MOMENTUM", 0.9)
    optimizer = build_optimizer(tiny_config("light", *opts), model)
    optimizer.step()
    optimizer.step()
    torch.testing.assert_close(model.p0.detach(), torch.tensor([1 - 0.3 * 2.9, 1 - 0.4 * 2.9]))


def test_an_optimizer_of_ones_own(monkeypatch):
    model = model_with_gradients([1.0])
    cfg = tiny_config("light", "SOLVER.OPTIMIZER", "Adagrad")
    with pytest.raises(UserError, match="SOLVER.OPTIMIZER is 'Adagrad'; valid are ADAMW, SGD"):
        build_optimizer(cfg, model)
    monkeypatch.setitem(OPTIMIZER_REGISTRY._obj_map, "Adagrad", lambda cfg, groups: torch.optim.Adagrad(groups))
    check_config(cfg)
    assert build_optimizer(cfg, model).param_groups[0]["lr"] == cfg.SOLVER.BASE_LR
