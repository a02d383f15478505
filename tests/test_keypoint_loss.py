"""The keypoint losses against their closed forms, and that what does not count can do no harm."""

import copy
import math

import pytest
import torch
from tiny_model import gradients_of, tiny_batch, tiny_config, tiny_model

from querypose.modeling.losses.keypoint_loss import (
    L1,
    RLE,
    RealNVP,
    RLEWithoutFlow,
    SmoothL1,
    keypoints_in_box_units,
    keypoints_in_pixels,
)


def closed_form(coordinates, sigmas, targets, valid, flow):
    """Equation 4, keypoint by keypoint."""
    total = 0.0
    for u, s, g in zip(coordinates[valid], sigmas[valid], targets[valid], strict=True):
        latent, log_det = flow.to_latent(((u - g) / s)[None])
        density = torch.exp(-0.5 * latent.square().sum() + log_det.sum()) / (2 * math.pi)
        rest = torch.log(s * math.sqrt(2 * math.pi)) + (g - u).abs() / (math.sqrt(2) * s)
        total += (s.log() - density.log() + rest).sum()
    return total


@pytest.fixture
def sample():
    """Coordinates, sigmas, targets, valid."""
    valid = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 1]], dtype=torch.bool)
    return 0.3 * torch.randn(3, 4, 2), torch.rand(3, 4, 2) * 0.8 + 0.1, 0.3 * torch.randn(3, 4, 2), valid


@pytest.mark.parametrize("autocast", [False, True])
def test_closed_form_and_its_gradients(sample, autocast):
    *numbers, valid = sample
    kinds = (torch.float32, torch.float64)
    singles, doubles = ([tensor.to(kind).requires_grad_() for tensor in numbers] for kind in kinds)
    flow = RealNVP()
    expected = closed_form(*doubles, valid, copy.deepcopy(flow).double())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = RLE(flow=flow)(*singles, valid)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = zip(torch.autograd.grad(loss, singles[:2]), torch.autograd.grad(expected, doubles[:2]), strict=True)
    for ours, theirs in gradients:
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan"), 1e30])
def test_what_does_not_count_never_reaches_the_flow(sample, bad):
    coordinates, sigmas, targets, valid = sample
    rle, seen = RLE(flow=RealNVP()), []
    expected = rle(*sample)
    log_prob = rle.flow.log_prob
    rle.flow.log_prob = lambda errors: seen.append(errors.detach()) or log_prob(errors)
    targets = torch.where(valid[..., None], targets, bad)
    coordinates, sigmas = coordinates.clone().requires_grad_(), sigmas.clone().requires_grad_()
    loss = rle(coordinates, sigmas, targets, valid)
    assert torch.equal(loss, expected)
    assert torch.equal(seen[0][~valid.flatten()], torch.zeros(int((~valid).sum()), 2))
    loss.backward()
    for gradient in (coordinates.grad, sigmas.grad):
        assert gradient.isfinite().all()
        assert (gradient[~valid] == 0).all() and (gradient[valid] != 0).all()
    # nor does a sigma of zero
    assert rle(coordinates, torch.zeros_like(sigmas), coordinates, valid).isfinite()


def test_box_units_by_hand():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    keypoints = torch.tensor([[[20.0, 40.0, 2], [10.0, 60.0, 1], [30.0, 30.0, 2]]])
    targets, valid = keypoints_in_box_units(keypoints, boxes)
    assert targets.tolist() == [[[0.0, 0.0], [-0.5, 0.5], [0.5, -0.25]]]
    assert valid.all(), "the border belongs to the box"
    torch.testing.assert_close(keypoints_in_pixels(targets, boxes), keypoints[..., :2])
    # not labeled, or outside
    others = [[20, 40, 0], [9.9, 40, 2], [30.1, 40, 2], [20, 19.9, 2], [20, 60.1, 1], [math.nan, 40, 2]]
    assert not keypoints_in_box_units(torch.tensor([others]), boxes)[1].any()
    # a box without area holds none
    boxes = torch.tensor([[10.0, 20.0, 10.0, 60.0], [10.0, 20.0, 30.0, 20.0], [30.0, 20.0, 10.0, 60.0]])
    targets, valid = keypoints_in_box_units(torch.nn.functional.pad(boxes[:, None, :2], (0, 1), value=2.0), boxes)
    assert not valid.any() and targets.isfinite().all()


def test_the_other_losses_by_hand():
    coordinates = torch.tensor([[[0.10, -0.20], [0.0, 0.3], [0.4, 0.4]]], requires_grad=True)
    targets = torch.tensor([[[0.13, -0.10], [0.0, 0.3], [float("nan"), float("inf")]]])
    valid, cfg = torch.tensor([[True, True, False]]), tiny_config("light")
    for kind, value, slopes in (
        (L1, 0.03 + 0.10, [-1.0, -1.0]),
        (SmoothL1, 0.03**2 / (2 * 0.05) + 0.10 - 0.025, [-0.6, -1.0]),
    ):
        loss = kind(cfg)(coordinates, None, targets, valid)
        assert loss.item() == pytest.approx(value)
        (gradient,) = torch.autograd.grad(loss, coordinates)
        torch.testing.assert_close(gradient, torch.tensor([[slopes, [0.0, 0.0], [0.0, 0.0]]]))
    sigmas = torch.tensor([[[0.2, 0.4], [0.3, 0.5], [0.1, 0.1]]])
    wanted = sum(
        math.log(sigma * math.sqrt(2 * math.pi)) + error / (math.sqrt(2) * sigma)
        for sigma, error in ((0.2, 0.03), (0.4, 0.10), (0.3, 0.0), (0.5, 0.0))
    )
    assert RLEWithoutFlow(cfg)(coordinates, sigmas, targets, valid).item() == pytest.approx(wanted, rel=1e-5)


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
    assert (instances.pred_keypoints[..., 2] == 1).all() == (not sigma)
    probability = boxes.logits[-1][0].sigmoid()
    assert torch.allclose(instances.scores, probability.flatten().sort(descending=True)[0]) == (not sigma)
