"""Losses and gradients stay finite whatever the ground truth and the predictions are."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances, Keypoints
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import gradients_of, spread, tiny_model

from querypose.modeling.decoder import BoxOutput, KeypointOutput
from querypose.modeling.losses.auxiliary import AuxiliaryHeatmap
from querypose.modeling.losses.criterion import SetCriterion
from querypose.modeling.losses.keypoint_loss import RLE, RealNVP
from querypose.modeling.losses.matcher import HungarianMatcher, Targets
from querypose.modeling.ops.pyramid_pooling import pool_regions

K = 3
SIDES = st.sampled_from([1.0, 2.0, 37.0, 800.0, 20_000.0])  # pixels of an image
# in units of the image: outside, at the edges, inside, further than any crop leaves a keypoint
PLACES = st.sampled_from([-50.0, -1e-3, 0.0, 1e-7, 0.3, 0.5, 0.999, 1.0, 50.0])
EXTENTS = st.sampled_from([0.0, 1e-9, 1e-3, 0.5, 1.0, 100.0])
VISIBILITY = st.sampled_from([0.0, 1.0, 2.0])
LOGITS = st.sampled_from([-1e4, -90.0, -5.0, 0.0, 5.0, 90.0, 1e4])
COORDINATES = st.sampled_from([-1e3, -0.5, 0.0, 1e-9, 0.5, 1e3])
SIGMA_LOGITS = st.sampled_from([-200.0, -80.0, -18.0, -1.0, 0.0, 4.0, 30.0, 200.0])
QUERIES = 4


def numbers(draw, strategy, *shape):
    number = math.prod(shape)
    return torch.tensor(draw(st.lists(strategy, min_size=number, max_size=number))).view(shape)


def boxes(draw, number, size):
    """Corners, which may coincide with one another, have no area, or lie outside of the image."""
    low, extent = numbers(draw, PLACES, number, 2), numbers(draw, EXTENTS, number, 2)
    return torch.cat([low, low + extent], dim=1) * size.repeat(2)


@st.composite
def problems(draw):
    """Ground truth of two images and the predictions of one stage for it."""
    size = numbers(draw, SIDES, 2, 2)
    counts = [draw(st.integers(0, 6)) for _ in range(2)]  # more than queries, too
    most = max(1, *counts)
    truth = torch.stack([boxes(draw, most, image) for image in size])
    if draw(st.booleans()):
        truth[:] = truth[:, :1]  # coincident persons
    places = numbers(draw, PLACES, 2, most, K, 2) * size[:, None, None]
    keypoints = torch.cat([places, numbers(draw, VISIBILITY, 2, most, K, 1)], dim=3)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    leaves = {
        "logits": numbers(draw, LOGITS, 2, QUERIES, 1).to(dtype),
        "boxes": torch.stack([boxes(draw, QUERIES, image) for image in size]),
        "coordinates": numbers(draw, COORDINATES, 2 * QUERIES, K, 2).to(dtype),
        "sigma_logits": numbers(draw, SIGMA_LOGITS, 2 * QUERIES, K, 2).to(dtype),
    }
    targets = Targets(truth, keypoints, counts, size.repeat(1, 2))
    return targets, {name: tensor.requires_grad_() for name, tensor in leaves.items()}


@settings(deadline=None, max_examples=80, derandomize=True)
@given(problems())
def test_losses_of_any_predictions_for_any_ground_truth(problem):
    targets, leaves = problem
    torch.manual_seed(0)
    criterion = SetCriterion(
        matcher=HungarianMatcher(),
        keypoint_loss=RLE(flow=RealNVP()),
        part_of_keypoint=[0, 1, 1],
        weights=dict.fromkeys(("class", "l1", "giou", "keypoint", "attention", "heatmap"), 1.0),
        auxiliary_heatmap=AuxiliaryHeatmap(4, K, stride=4),
    )
    attention = torch.full((2 * QUERIES, 2, 3, 3), -200.0)
    attention[..., 0, 0] = 200.0  # all of it at one place
    attention.requires_grad_()
    feature = torch.full((2, 4, 5, 6), 1e3, requires_grad=True)
    boxes = BoxOutput([leaves["logits"]], [leaves["boxes"]], [])
    output = KeypointOutput(
        rows=torch.arange(2 * QUERIES),
        coordinates=[leaves["coordinates"]],
        sigmas=[leaves["sigma_logits"].float().sigmoid()],
        attention=[attention.flatten(2).softmax(-1).view_as(attention)],
    )
    matches = criterion.matcher.assign(boxes.logits, boxes.boxes, targets)
    number = torch.tensor(max(sum(targets.counts), 1))
    losses = criterion.box_losses(boxes, matches, targets, number)
    losses |= criterion.keypoint_losses(output, boxes, matches, targets, number)
    losses["loss_heatmap"] = criterion.heatmap_loss(feature, targets)
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    tensors = {**leaves, **dict(criterion.named_parameters()), "attention": attention, "feature": feature}
    for name, tensor in tensors.items():
        assert tensor.grad is None or tensor.grad.isfinite().all(), f"the gradient of {name}"


def person(number, height, width, area=True, visibility=2.0):
    """`number` persons, all the same, over the whole image or without an area."""
    instances = Instances((height, width))
    box = torch.tensor([0.0, 0.0, width, height]) if area else torch.tensor([width / 2, height / 2] * 2)
    instances.gt_boxes = Boxes(box.repeat(number, 1))
    instances.gt_keypoints = Keypoints(torch.tensor([width / 2, height / 2, visibility]).repeat(number, 17, 1))
    return {"image": torch.zeros(3, height, width, dtype=torch.uint8), "instances": instances}


BATCHES = {
    "one pixel": [person(1, 1, 1), person(2, 1, 1)],
    "extreme shapes": [person(2, 2, 300), person(2, 300, 2)],
    "no area, or nothing visible": [person(3, 40, 60, area=False), person(3, 40, 60, visibility=0.0)],
    "200 persons": [person(200, 40, 60), person(0, 60, 40)],
    "nobody": [person(0, 40, 60)],
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_steps_of_the_model(name, bfloat16):
    opts = ("MODEL.QUERYPOSE.TRAIN_QUERIES", "matched") if bfloat16 else ()
    auxiliary = ("MODEL.QUERYPOSE.LOSS.HEATMAP_WEIGHT", 1.0, "MODEL.QUERYPOSE.LOSS.ATTENTION_WEIGHT", 1.0)
    model = spread(tiny_model("light" if bfloat16 else "full", *opts, *auxiliary)).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        losses, gradients = gradients_of(model, BATCHES[name])
    assert all(loss.isfinite() for loss in losses.values()), losses
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
def test_boxes_that_have_diverged_can_be_pooled(value):
    feature = torch.rand(1, 2, 8, 8)
    places = torch.tensor([[0.0, 0.0, 8.0, 8.0], [value, 0.0, 8.0, 8.0], [0.0, -value, value, value]])
    pooled = pool_regions(feature, places, torch.zeros(3, dtype=torch.long), 4, 1.0)
    assert pooled.isfinite().all()
    assert torch.equal(pooled[:1], pool_regions(feature, places[:1], torch.zeros(1, dtype=torch.long), 4, 1.0))
