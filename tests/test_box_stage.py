"""One box stage: what a delta does, and that the order of the queries means nothing."""

import math

import pytest
import torch
from tiny_model import tiny_config

from querypose.modeling.box_stage import BoxStage

STRIDES = [4, 8, 16, 32]


@pytest.fixture
def stage():
    return BoxStage(tiny_config(), STRIDES).eval()


@pytest.fixture
def inputs():
    features = [torch.randn(2, 16, 96 // stride, 128 // stride) for stride in STRIDES]
    low = torch.rand(2, 5, 2) * 40
    boxes = torch.cat([low, low + torch.rand(2, 5, 2) * 50 + 5], dim=2)
    return features, boxes, torch.randn(2, 5, 16)


def run(stage, features, boxes, queries):
    return stage(stage.pool(features, boxes), boxes, queries)


@torch.no_grad()
def test_permuted_queries_give_permuted_results(stage, inputs):
    features, boxes, queries = inputs
    results = run(stage, features, boxes, queries)
    assert [tuple(result.shape) for result in results] == [(2, 5, 1), (2, 5, 4), (2, 5, 16)]
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = run(stage, features, boxes[:, order], queries[:, order])
    for ours, wanted in zip(permuted, results, strict=True):
        torch.testing.assert_close(ours, wanted[:, order], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_images_of_a_batch_are_independent_and_queries_are_not(stage, inputs):
    features, boxes, queries = inputs
    before = run(stage, features, boxes, queries)
    boxes, queries = boxes.clone(), queries.clone()
    queries[1, 0] = torch.randn(16)
    boxes[1, 1] = torch.tensor([0.0, 0, 99, 88])
    after = run(stage, features, boxes, queries)
    assert torch.equal(after[2][0], before[2][0]) and torch.equal(after[1][0], before[1][0])
    # self-attention carries the change of query 0 to query 4
    assert (after[2][1, 4] - before[2][1, 4]).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize(
    ("deltas", "shift", "factor"),
    [
        ((0.0, 0.0, 0.0, 0.0), (0.0, 0.0), (1.0, 1.0)),
        # weights 2, 2, 1, 1: half a width to the right, a height up, twice as wide, half as high
        ((1.0, -2.0, math.log(2), -math.log(2)), (0.5, -1.0), (2.0, 0.5)),
        ((0.0, 0.0, 1e4, 1e4), (0.0, 0.0), (100000 / 16,) * 2),
    ],
)
def test_deltas_have_r_cnn_s_meaning(stage, inputs, deltas, shift, factor):
    features, boxes, queries = inputs
    stage.box_delta.weight.zero_()
    stage.box_delta.bias.copy_(torch.tensor(deltas))
    refined = run(stage, features, boxes, queries)[1]
    size, center = boxes[..., 2:] - boxes[..., :2], (boxes[..., 2:] + boxes[..., :2]) / 2
    center = center + size * torch.tensor(shift)
    size = size * torch.tensor(factor)
    torch.testing.assert_close(refined, torch.cat([center - size / 2, center + size / 2], dim=2), rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_boxes_are_float32_under_autocast(stage, inputs):
    expected = run(stage, *inputs)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        boxes = run(stage, *inputs)[1]
    assert boxes.dtype == torch.float32
    torch.testing.assert_close(boxes, expected, rtol=0.1, atol=2.0)


def test_level_by_size_of_the_box(stage):
    # 224 pixels are P4: a box of 200 pixels is read from P3, one of 500 from P5
    features = [torch.full((1, 16, 512 // stride, 512 // stride), float(stride)) for stride in STRIDES]
    boxes = torch.tensor([[[0.0, 0, 60, 60], [0, 0, 200, 200], [0, 0, 300, 300], [0, 0, 500, 500]]])
    regions = stage.pool(features, boxes)
    assert regions.shape == (4, 16, 5, 5)
    assert regions.mean(dim=(1, 2, 3)).tolist() == [4.0, 8.0, 16.0, 32.0]
