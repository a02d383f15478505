"""Parameter groups, clipping, and one step of AdamW by hand."""

import pytest
import torch
from tiny_model import tiny_batch, tiny_config, tiny_model
from torch import nn

from querypose.engine.optimizer import build_optimizer, parameter_groups
from querypose.errors import UserError


@pytest.fixture(scope="module")
def model():
    return tiny_model("full")


def named(model, group):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def test_every_trainable_parameter_once(model):
    groups = build_optimizer(tiny_config("full"), model).param_groups
    parameters = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(parameters) == len(set(parameters))
    assert set(parameters) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_the_flow_learns_ten_times_as_fast(model):
    groups = build_optimizer(tiny_config("full"), model).param_groups
    assert len(groups) == 2
    (fast,) = [group for group in groups if group["lr"] == pytest.approx(2.5e-4)]
    (other,) = [group for group in groups if group is not fast]
    assert named(model, fast) == {name for name, _ in model.named_parameters() if name.startswith("criterion.flow.")}
    assert other["lr"] == 2.5e-5
    assert fast["weight_decay"] == other["weight_decay"] == 1e-4


def test_groups_by_the_config(model):
    cfg = tiny_config("full")
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    groups = build_optimizer(cfg, model).param_groups
    # three learning rates, with and without decay
    assert len(groups) == 6
    found = {}
    for group in groups:
        for name in named(model, group):
            found[name] = (pytest.approx(group["lr"]), group["weight_decay"])
    assert found["backbone.fpn_lateral2.weight"] == (2.5e-6, 1e-4)
    assert found["backbone.fpn_lateral2.bias"] == (2.5e-6, 0.0)
    assert found["decoder.box_stages.0.interaction_norm.weight"] == (2.5e-5, 0.0)
    assert found["decoder.keypoint_stages.1.part_embedding.upsample.1.weight"] == (2.5e-5, 0.0)
    assert found["decoder.keypoint_stages.1.heads.sigma_bias"] == (2.5e-5, 0.0)
    assert found["decoder.part_queries.weight"] == (2.5e-5, 1e-4)
    assert found["criterion.flow.scale.0.0.weight"] == (2.5e-4, 1e-4)


def test_frozen_and_shared_parameters():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight.requires_grad_(False)
    model[2].weight = model[1].weight
    (group,) = parameter_groups(model, base_lr=1.0, weight_decay=0.0)
    assert {id(p) for p in group["params"]} == {
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model[2].bias)
    }
    assert len(group["params"]) == 4


def small_optimizer(model, **solver):
    cfg = tiny_config()
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.WEIGHT_DECAY = 0.01
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return build_optimizer(cfg, model)


def model_with_gradients(*gradients):
    model = nn.Module()
    for index, gradient in enumerate(gradients):
        parameter = nn.Parameter(torch.ones(len(gradient)))
        parameter.grad = torch.tensor(gradient)
        model.register_parameter(f"p{index}", parameter)
    return model


def test_the_norm_of_the_whole_gradient_is_clipped():
    model = model_with_gradients([3.0, 0.0], [0.0, 4.0])
    small_optimizer(model).step()
    # norm 5 becomes 1 for both together
    torch.testing.assert_close(model.p0.grad, torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(model.p1.grad, torch.tensor([0.0, 0.8]))
    small = model_with_gradients([0.3, 0.0], [0.0, 0.4])
    small_optimizer(small).step()
    torch.testing.assert_close(small.p1.grad, torch.tensor([0.0, 0.4]))


def test_one_group_s_gradient_clips_the_other():
    model = nn.Module()
    model.add_module("decoder", nn.Linear(1, 1, bias=False))
    model.add_module("criterion", nn.Module())
    model.criterion.add_module("flow", nn.Linear(1, 1, bias=False))
    model.decoder.weight.grad, model.criterion.flow.weight.grad = torch.tensor([[3.0]]), torch.tensor([[4.0]])
    optimizer = small_optimizer(model)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.0]
    optimizer.step()
    assert model.decoder.weight.grad.item() == pytest.approx(0.6)
    assert model.criterion.flow.weight.grad.item() == pytest.approx(0.8)


def test_adamw_s_first_two_steps_by_hand():
    model = model_with_gradients([0.3, -0.5])
    optimizer = small_optimizer(model)
    weight, first, second = torch.ones(2), torch.zeros(2), torch.zeros(2)
    for step, gradient in enumerate((torch.tensor([0.3, -0.5]), torch.tensor([0.1, 0.2])), start=1):
        model.p0.grad = gradient.clone()
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weight = weight - 0.1 * 0.01 * weight
        weight = weight - 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.testing.assert_close(model.p0.detach(), weight)


def test_sgd_and_no_clipping():
    model = model_with_gradients([3.0, 4.0])
    cfg = tiny_config()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = "SGD", 0.1, 0.0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    build_optimizer(cfg, model).step()
    torch.testing.assert_close(model.p0.detach(), torch.tensor([0.7, 0.6]))


def test_mistakes():
    model = model_with_gradients([1.0])
    with pytest.raises(UserError, match="OPTIMIZER is 'ADAM'; valid are ADAMW, SGD"):
        small_optimizer(model, OPTIMIZER="ADAM")
    cfg = tiny_config()
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"
    with pytest.raises(UserError, match="CLIP_TYPE is 'value'"):
        build_optimizer(cfg, model)


def test_state_survives_saving(model):
    optimizer = build_optimizer(tiny_config("full"), model)
    sum(model.train()(tiny_batch()).values()).backward()
    optimizer.step()
    other = build_optimizer(tiny_config("full"), model)
    other.load_state_dict(optimizer.state_dict())
    for parameter, state in optimizer.state.items():
        assert torch.equal(other.state[parameter]["exp_avg"], state["exp_avg"])
