"""The keypoint losses against their closed forms, and that what does not count can do no harm."""

import math

import numpy as np
import pytest
import torch
from tiny_model import gradients_of, tiny_batch, tiny_config, tiny_model
from torch import nn

from querypose.modeling.losses.flow import RealNVP
from querypose.modeling.losses.keypoint_loss import (
    L1,
    RLEWithoutFlow,
    SmoothL1,
    keypoints_in_box_units,
    keypoints_in_pixels,
    residual_log_likelihood_loss,
)


class RecordingNormal(nn.Module):
    """The density of two independent standard normals; remembers what it was asked."""

    def log_prob(self, errors):
        self.seen = errors.detach().clone()
        return -0.5 * errors.square().sum(dim=1) - math.log(2 * math.pi)


def closed_form(coordinates, sigmas, targets, valid):
    """Equation 4 keypoint by keypoint in float64, with a standard normal as phi."""
    total = 0.0
    for u, s, g in zip(coordinates[valid], sigmas[valid], targets[valid], strict=True):
        error = (u - g) / s
        density = np.exp(-0.5 * (error**2).sum()) / (2 * np.pi)
        for axis in (0, 1):
            total += np.log(s[axis]) - np.log(density)
            total += np.log(s[axis] * np.sqrt(2 * np.pi)) + abs(g[axis] - u[axis]) / (np.sqrt(2) * s[axis])
    return total


@pytest.fixture
def sample():
    coordinates = 0.3 * torch.randn(3, 4, 2)
    sigmas = torch.rand(3, 4, 2) * 0.8 + 0.1
    targets = 0.3 * torch.randn(3, 4, 2)
    valid = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 1]], dtype=torch.bool)
    return coordinates, sigmas, targets, valid


def test_closed_form_with_a_standard_normal(sample):
    expected = closed_form(
        *(tensor.double().numpy() if tensor.is_floating_point() else tensor.numpy() for tensor in sample)
    )
    assert residual_log_likelihood_loss(*sample, RecordingNormal()).item() == pytest.approx(expected, rel=1e-5)
    # a flow without couplings is a standard normal
    assert residual_log_likelihood_loss(*sample, RealNVP(0)).item() == pytest.approx(expected, rel=1e-5)


def test_the_flow_s_density_counts_once_for_each_coordinate(sample):
    class Shifted(RecordingNormal):
        def log_prob(self, errors):
            return super().log_prob(errors) + 1.0

    difference = residual_log_likelihood_loss(*sample, RecordingNormal()) - residual_log_likelihood_loss(
        *sample, Shifted()
    )
    assert difference.item() == pytest.approx(2 * sample[3].sum().item(), rel=1e-5)


@pytest.mark.parametrize("index", [0, 1])
def test_gradient_against_finite_differences(sample, index):
    flow = RealNVP()
    inputs = [tensor.clone() for tensor in sample]
    inputs[index].requires_grad_()
    residual_log_likelihood_loss(*inputs, flow).backward()
    step = 1e-3
    for place in [(0, 0, 0), (0, 2, 1), (2, 1, 0), (2, 3, 1)]:
        values = []
        for sign in (1, -1):
            moved = [tensor.detach().clone() for tensor in inputs]
            moved[index][place] += sign * step
            values.append(residual_log_likelihood_loss(*moved, flow).double().item())
        slope = (values[0] - values[1]) / (2 * step)
        assert inputs[index].grad[place].item() == pytest.approx(slope, rel=2e-2, abs=2e-2)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan"), 1e30])
def test_what_does_not_count_never_reaches_the_flow(sample, bad):
    coordinates, sigmas, targets, valid = sample
    flow = RecordingNormal()
    expected = residual_log_likelihood_loss(coordinates, sigmas, targets, valid, flow)
    targets = torch.where(valid[..., None], targets, bad)
    coordinates, sigmas = coordinates.clone().requires_grad_(), sigmas.clone().requires_grad_()
    loss = residual_log_likelihood_loss(coordinates, sigmas, targets, valid, flow)
    assert torch.equal(loss, expected)
    assert torch.equal(flow.seen[~valid.flatten()], torch.zeros(int((~valid).sum()), 2))
    loss.backward()
    for gradient in (coordinates.grad, sigmas.grad):
        assert gradient.isfinite().all()
        assert (gradient[~valid] == 0).all() and (gradient[valid] != 0).all()


def test_a_sigma_of_zero_is_finite(sample):
    coordinates, sigmas, targets, valid = sample
    sigmas = torch.zeros_like(sigmas)
    assert residual_log_likelihood_loss(targets.clone(), sigmas, targets, valid, RealNVP()).isfinite()


def test_loss_is_float32_under_autocast(sample):
    coordinates, sigmas, targets, valid = sample
    flow = RealNVP()
    expected = residual_log_likelihood_loss(coordinates, sigmas, targets, valid, flow)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = residual_log_likelihood_loss(coordinates, sigmas, targets, valid, flow)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_box_units_by_hand():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    keypoints = torch.tensor([[[20.0, 40.0, 2], [10.0, 60.0, 1], [30.0, 30.0, 2]]])
    targets, valid = keypoints_in_box_units(keypoints, boxes)
    assert targets.tolist() == [[[0.0, 0.0], [-0.5, 0.5], [0.5, -0.25]]]
    assert valid.all(), "the border belongs to the box"


def test_only_labelled_keypoints_inside_the_box_count():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    keypoints = torch.tensor(
        [[[20, 40, 0], [9.9, 40, 2], [30.1, 40, 2], [20, 19.9, 2], [20, 60.1, 1], [20, 40, 1], [math.nan, 40, 2]]]
    )
    _, valid = keypoints_in_box_units(keypoints, boxes)
    assert valid.tolist() == [[False, False, False, False, False, True, False]]


@pytest.mark.parametrize("box", [(10, 20, 10, 60), (10, 20, 30, 20), (10, 20, 10, 20), (30, 20, 10, 60)])
def test_a_box_without_area_holds_none(box):
    corner = [float(box[0]), float(box[1]), 2.0]
    targets, valid = keypoints_in_box_units(torch.tensor([[corner]]), torch.tensor([box], dtype=torch.float32))
    assert not valid.any() and targets.isfinite().all()


def test_pixels_and_box_units_are_inverse():
    low = torch.rand(5, 2) * 50
    boxes = torch.cat([low, low + torch.rand(5, 2) * 80 + 1], dim=1)
    keypoints = torch.cat([100 * torch.rand(5, 7, 2), torch.full((5, 7, 1), 2.0)], dim=2)
    units, _ = keypoints_in_box_units(keypoints, boxes)
    torch.testing.assert_close(keypoints_in_pixels(units, boxes), keypoints[..., :2], rtol=1e-5, atol=1e-4)


def example():
    coordinates = torch.tensor([[[0.10, -0.20], [0.0, 0.3], [0.4, 0.4]]], requires_grad=True)
    targets = torch.tensor([[[0.13, -0.10], [0.0, 0.3], [float("nan"), float("inf")]]])
    valid = torch.tensor([[True, True, False]])
    return coordinates, targets, valid


def test_l1_and_smooth_l1_by_hand():
    coordinates, targets, valid = example()
    cfg = tiny_config("light")
    loss = L1(cfg)(coordinates, None, targets, valid)
    assert loss.item() == pytest.approx(0.03 + 0.10)
    (gradient,) = torch.autograd.grad(loss, coordinates)
    torch.testing.assert_close(gradient, torch.tensor([[[-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]]))
    loss = SmoothL1(cfg)(coordinates, None, targets, valid)
    assert loss.item() == pytest.approx(0.03**2 / (2 * 0.05) + 0.10 - 0.025)
    (gradient,) = torch.autograd.grad(loss, coordinates)
    torch.testing.assert_close(gradient, torch.tensor([[[-0.6, -1.0], [0.0, 0.0], [0.0, 0.0]]]))


def test_without_the_flow():
    cfg = tiny_config("light")
    coordinates, targets, valid = example()
    sigmas = torch.tensor([[[0.2, 0.4], [0.3, 0.5], [0.1, 0.1]]])
    loss = RLEWithoutFlow(cfg)(coordinates, sigmas, targets, valid)
    wanted = sum(
        math.log(sigma * math.sqrt(2 * math.pi)) + error / (math.sqrt(2) * sigma)
        for sigma, error in ((0.2, 0.03), (0.4, 0.10), (0.3, 0.0), (0.5, 0.0))
    )
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    # sigma still means something: the best one is the error over sqrt 2
    best = [torch.full((1, 1, 2), 0.1 / math.sqrt(2) * factor) for factor in (0.9, 1.0, 1.1)]
    at = [
        RLEWithoutFlow(cfg)(torch.zeros(1, 1, 2), s, torch.full((1, 1, 2), 0.1), torch.ones(1, 1).bool()) for s in best
    ]
    assert at[1] < at[0] and at[1] < at[2]


@pytest.mark.parametrize(
    ("name", "flow", "sigma"), [("RLE", 1, 1), ("RLEWithoutFlow", 0, 1), ("L1", 0, 0), ("SmoothL1", 0, 0)]
)
def test_only_what_the_loss_needs_exists(name, flow, sigma):
    model = tiny_model("light", "MODEL.QUERYPOSE.KEYPOINT_LOSS", name)
    names = [key for key, _ in model.named_parameters()]
    assert any("criterion.keypoint_loss.flow" in key for key in names) == bool(flow)
    assert any("heads.sigma" in key for key in names) == bool(sigma)
    for persons in ((2, 1), (0, 0)):
        model.zero_grad(set_to_none=True)
        losses, gradients = gradients_of(model.train(), tiny_batch(persons=persons))
        assert losses["loss_keypoint"].item() == 0 or persons == (2, 1)
        assert all(gradient is not None for gradient in gradients.values())
    with torch.no_grad():
        (instances,) = model.eval()(tiny_batch()[:1], do_postprocess=False)
        boxes, _ = model.decode(*model.extract(model.preprocess(tiny_batch()[:1])))
    confidence = instances.pred_keypoints[..., 2]
    assert (confidence == 1).all() == (not sigma)
    probability = boxes.logits[-1][0].sigmoid()
    assert torch.allclose(instances.scores, probability.flatten().sort(descending=True)[0]) == (not sigma)
