"""One keypoint stage: every person by itself."""

import pytest
import torch
from tiny_model import tiny_config

from querypose.modeling.keypoint_stage import KeypointStage

PARTS = [0, 0, 1, 2, 2, 1]


def make_stage(variant):
    stage = KeypointStage(tiny_config(variant), PARTS).eval()
    with torch.no_grad():
        for parameter in stage.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return stage


@pytest.fixture
def inputs():
    return {
        "regions": torch.randn(7, 16, 6, 6),
        "instance_queries": torch.randn(7, 16),
        "part_queries": torch.randn(7, 3, 16),
    }


@torch.no_grad()
def test_light_leaves_the_instance_query_and_full_updates_it(inputs):
    coordinates, sigmas, queries, part_queries, attention = make_stage("light")(**inputs)
    assert attention.shape[:2] == (7, 3)
    assert queries is inputs["instance_queries"]
    assert coordinates.shape == sigmas.shape == (7, 6, 2) and part_queries.shape == (7, 3, 16)
    assert ((sigmas > 0) & (sigmas < 1)).all()
    full = make_stage("full")(**inputs)[2]
    assert full.shape == (7, 16) and (full - inputs["instance_queries"]).abs().max() > 0.1


@pytest.mark.parametrize("variant", ["light", "full"])
@torch.no_grad()
def test_rows_are_independent_of_one_another(variant, inputs):
    stage = make_stage(variant)
    everyone = stage(**inputs)
    for rows in (torch.tensor([5, 1, 2]), torch.tensor([], dtype=torch.long)):
        some = stage(**{name: tensor[rows] for name, tensor in inputs.items()})
        for ours, wanted in zip(some, everyone, strict=True):
            torch.testing.assert_close(ours, wanted[rows], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_self_attention_connects_parts(inputs):
    stage = make_stage("light")
    before = stage(**inputs)[3]
    inputs["part_queries"][0, 2] += 1.0
    after = stage(**inputs)[3]
    assert (after[0, 0] - before[0, 0]).abs().max() > 1e-5
    assert torch.equal(after[1:], before[1:])


@torch.no_grad()
def test_heads_stay_float32_under_autocast(inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coordinates, sigmas, *_ = make_stage("full")(**inputs)
    assert coordinates.dtype == sigmas.dtype == torch.float32
    assert coordinates.isfinite().all()
