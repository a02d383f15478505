"""Parameter groups, the registry of optimizers and clipping."""

import pytest
import torch
from tiny_model import tiny_config, tiny_model
from torch import nn

from querypose.config_checks import check_config
from querypose.engine.optimizer import OPTIMIZER_REGISTRY, build_optimizer, clip_gradients, parameter_groups


def test_each_parameter_is_in_one_group():
    model = tiny_model("full")
    assert len(parameter_groups(tiny_config("full"), model)) == 2
    cfg = tiny_config("full", "SOLVER.BACKBONE_MULTIPLIER", 0.1, "SOLVER.BIAS_LR_FACTOR", 2.0)
    cfg.SOLVER.WEIGHT_DECAY_NORM = cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = parameter_groups(cfg, model)
    found = {names.pop(p): (pytest.approx(g["lr"]), g["weight_decay"]) for g in groups for p in g["params"]}
    assert not names
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


@pytest.mark.parametrize(("name", "kind"), [("ADAMW", torch.optim.AdamW), ("SGD", torch.optim.SGD)])
def test_options(name, kind):
    opts = ("SOLVER.OPTIMIZER", name, "SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.01, "SOLVER.NESTEROV", True)
    optimizer = build_optimizer(tiny_config("light", *opts), model_with_gradients([3.0, 4.0]))
    (group,) = optimizer.param_groups
    assert type(optimizer) is kind and (group["lr"], group["weight_decay"]) == (0.1, 0.01)
    assert name == "ADAMW" or (group["momentum"], group["nesterov"]) == (0.9, True)


def test_an_optimizer_of_ones_own(monkeypatch):
    model = model_with_gradients([1.0])
    cfg = tiny_config("light", "SOLVER.OPTIMIZER", "Adagrad")
    monkeypatch.setitem(OPTIMIZER_REGISTRY._obj_map, "Adagrad", lambda cfg, groups: torch.optim.Adagrad(groups))
    check_config(cfg)
    assert build_optimizer(cfg, model).param_groups[0]["lr"] == cfg.SOLVER.BASE_LR
