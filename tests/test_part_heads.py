"""Stacked heads are what separate layers for every part would be."""

import math

import pytest
import torch
from torch import nn

from querypose.modeling.part_heads import KeypointHeads, PartLinear

PARTS = [0, 0, 2, 1, 2]


@pytest.fixture
def heads():
    heads = KeypointHeads(PARTS, 8)
    for parameter in heads.parameters():
        nn.init.normal_(parameter)
    return heads


def test_part_linear_is_a_linear_for_each_part():
    stacked = PartLinear(3, 6, 4)
    nn.init.normal_(stacked.bias)
    query = torch.randn(5, 6)
    result = stacked(query)
    assert result.shape == (5, 3, 4)
    for part in range(3):
        single = nn.Linear(6, 4)
        single.load_state_dict({"weight": stacked.weight[part], "bias": stacked.bias[part]})
        torch.testing.assert_close(result[:, part], single(query))


def test_keypoint_heads_are_separate_layers_of_their_part(heads):
    queries = torch.randn(4, 3, 8)
    coordinates, sigmas = heads(queries)
    assert coordinates.shape == sigmas.shape == (4, 5, 2)
    for keypoint, part in enumerate(PARTS):
        query = queries[:, part]
        direction = query / query.norm(dim=1, keepdim=True)
        expected = nn.functional.linear(direction, heads.coordinate_weight[keypoint], heads.coordinate_bias[keypoint])
        torch.testing.assert_close(coordinates[:, keypoint], expected)
        logit = nn.functional.linear(query, heads.sigma_weight[keypoint], heads.sigma_bias[keypoint])
        torch.testing.assert_close(sigmas[:, keypoint], 1 / (1 + torch.exp(-logit)))


def test_a_query_of_zero_is_finite(heads):
    queries = torch.zeros(1, 3, 8, requires_grad=True)
    coordinates, sigmas = heads(queries)
    torch.testing.assert_close(coordinates[0], heads.coordinate_bias)
    (coordinates.sum() + sigmas.sum()).backward()
    assert queries.grad.isfinite().all()


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_initial_spread(gain):
    """A direction times Xavier's weights, whose variance is 2 / (128 + 2)."""
    coordinates, sigmas = KeypointHeads(PARTS, 128, gain=gain)(torch.randn(500, 3, 128))
    assert coordinates.std().item() == pytest.approx(gain * math.sqrt(2 / 130), rel=0.1)
    assert torch.logit(sigmas).std().item() == pytest.approx(gain * math.sqrt(128 * 2 / 130), rel=0.1)


def test_float32_under_autocast(heads):
    queries = torch.randn(4, 3, 8)
    expected = heads(queries)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = heads(queries)
        rounded = heads(queries.bfloat16())
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == torch.float32 and torch.equal(result, wanted)
    assert all(result.dtype == torch.float32 for result in rounded)
