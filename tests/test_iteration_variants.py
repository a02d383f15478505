"""How part queries are updated and handed on (Table 2a)."""

import pytest
import torch
from tiny_model import spread, tiny_batch, tiny_model

from querypose.modeling.ablations import Concatenation, NoIteration, Summation


@torch.no_grad()
def test_summation_and_concatenation():
    embeddings, queries = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(Summation()(embeddings, queries), embeddings + queries)
    torch.testing.assert_close(NoIteration()(embeddings, queries), embeddings + queries)
    module = Concatenation(part_dim=4)
    wanted = embeddings @ module.fuse.weight[:, :4].T + queries @ module.fuse.weight[:, 4:].T + module.fuse.bias
    torch.testing.assert_close(module(embeddings, queries), wanted)
    assert sum(parameter.numel() for parameter in Concatenation(part_dim=128).parameters()) == 2 * 128 * 128 + 128


@torch.no_grad()
@pytest.mark.parametrize(("update", "handed_on"), [("NoIteration", False), ("Summation", True)])
def test_what_the_next_stage_starts_from(update, handed_on):
    model = spread(tiny_model("light", "MODEL.QUERYPOSE.PART_UPDATE", update)).eval()
    started_from = []
    for stage in model.decoder.keypoint_stages:
        stage.part_update.register_forward_pre_hook(lambda module, args: started_from.append(args[1]))
    model(tiny_batch())
    first, second = started_from
    learnable = model.decoder.part_queries.weight.expand_as(first)
    torch.testing.assert_close(first, learnable)
    assert torch.equal(second, learnable) is not handed_on
