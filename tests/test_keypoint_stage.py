"""One keypoint stage: every person by itself, from its own box in its own image."""

import pytest
import torch
from tiny_model import tiny_config

from querypose.modeling.keypoint_stage import KeypointStage

PARTS = [0, 0, 1, 2, 2, 1]


def make_stage(variant):
    stage = KeypointStage(tiny_config(variant), PARTS, 4).eval()
    with torch.no_grad():
        for parameter in stage.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return stage


@pytest.fixture
def inputs():
    low = torch.rand(7, 2) * 30
    return {
        "feature": torch.randn(2, 16, 16, 24),
        "boxes": torch.cat([low, low + torch.rand(7, 2) * 40 + 4], dim=1),
        "image_index": torch.tensor([0, 1, 0, 0, 1, 1, 0]),
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
    rows = torch.tensor([5, 1, 2])
    some = stage(**{name: tensor if name == "feature" else tensor[rows] for name, tensor in inputs.items()})
    for ours, wanted in zip(some, everyone, strict=True):
        torch.testing.assert_close(ours, wanted[rows], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_row_reads_its_own_image_and_box(inputs):
    stage = make_stage("light")
    before = stage(**inputs)[0]
    inputs["feature"][1] = torch.randn(16, 16, 24)
    inputs["boxes"][2, :2] += 3
    changed = (stage(**inputs)[0] - before).abs().amax(dim=(1, 2)) > 1e-4
    assert changed.tolist() == [False, True, True, False, True, True, False]


@torch.no_grad()
def test_region_is_the_box_at_the_stride(inputs):
    # a ramp along x: the region's centre column shows where its box was read
    stage, seen = make_stage("light"), []
    stage.tower.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    ramp = torch.arange(24.0).expand(2, 16, 16, 24).clone()
    boxes = torch.tensor([[20.0, 8.0, 44.0, 40.0]])
    stage(ramp, boxes, torch.tensor([0]), torch.zeros(1, 16), torch.zeros(1, 3, 16))
    # pixel x lies at place x / 4 - 1/2; 6 bins over 20 .. 44 have their centres at 22, 26 .. 42
    expected = (torch.arange(22.0, 44.0, 4.0) / 4 - 0.5).expand(16, 6, 6)
    torch.testing.assert_close(seen[0][0], expected)


@torch.no_grad()
def test_self_attention_carries_news_between_parts(inputs):
    stage = make_stage("light")
    before = stage(**inputs)[3]
    inputs["part_queries"][0, 2] += 1.0
    after = stage(**inputs)[3]
    assert (after[0, 0] - before[0, 0]).abs().max() > 1e-5
    assert torch.equal(after[1:], before[1:])


@torch.no_grad()
def test_nobody(inputs):
    none = {name: tensor if name == "feature" else tensor[:0] for name, tensor in inputs.items()}
    for variant in ("light", "full"):
        coordinates, sigmas, queries, part_queries, _ = make_stage(variant)(**none)
        assert coordinates.shape == sigmas.shape == (0, 6, 2) and part_queries.shape == (0, 3, 16)


@torch.no_grad()
def test_heads_stay_float32_under_autocast(inputs):
    stage = make_stage("full")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coordinates, sigmas, *_ = stage(**inputs)
    assert coordinates.dtype == sigmas.dtype == torch.float32
    assert coordinates.isfinite().all()
