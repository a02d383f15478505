"""One keypoint stage: every person by itself."""

import pytest
import torch
from tiny_model import tiny_config

from querypose.modeling.keypoint_stage import KeypointStage

PARTS = [0, 0, 1, 2, 2, 1]


def make_stage(variant):
    stage = KeypointStage(tiny_config(variant), PARTS).eval()
    for parameter in stage.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return stage


@pytest.fixture
def inputs():
    return [torch.randn(7, 16, 6, 6), torch.randn(7, 16), torch.randn(7, 3, 16)]


@pytest.mark.parametrize("variant", ["light", "full"])
@torch.no_grad()
def test_rows_are_independent_of_one_another(variant, inputs):
    stage = make_stage(variant)
    everyone = stage(*inputs)
    coordinates, sigmas, queries, part_queries, attention = everyone
    assert coordinates.shape == sigmas.shape == (7, 6, 2) and part_queries.shape == (7, 3, 16)
    assert ((sigmas > 0) & (sigmas < 1)).all() and attention.shape[:2] == (7, 3)
    assert (queries is inputs[1]) == (variant == "light") and queries.shape == (7, 16)
    for rows in (torch.tensor([5, 1, 2]), torch.tensor([], dtype=torch.long)):
        for ours, wanted in zip(stage(*(tensor[rows] for tensor in inputs)), everyone, strict=True):
            torch.testing.assert_close(ours, wanted[rows], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_self_attention_connects_parts(inputs):
    stage = make_stage("light")
    before = stage(*inputs)[3]
    inputs[2][0, 2] += 1.0
    after = stage(*inputs)[3]
    assert (after[0, 0] - before[0, 0]).abs().max() > 1e-5
    assert torch.equal(after[1:], before[1:])
