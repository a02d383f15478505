"""The keypoint losses beside residual log-likelihood, against closed forms."""

import math

import pytest
import torch
from tiny_model import gradients_of, tiny_batch, tiny_config, tiny_model

from querypose.modeling.losses.keypoint_loss import L1, RLEWithoutFlow, SmoothL1


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
