"""How part queries are updated and handed on: Equation 3 written out, and the variants of Table 2a."""

import pytest
import torch
from tiny_model import spread, tiny_batch, tiny_config, tiny_model

from querypose.modeling.ablations import Concatenation, NoIteration, Summation
from querypose.modeling.selective_iteration import SelectiveIteration


@torch.no_grad()
def test_equation_3():
    """One part query at a time, with LayerNorm and sigmoid spelled out."""
    module = SelectiveIteration(part_dim=16)
    for parameter in module.parameters():
        parameter.normal_()
    embeddings, queries = torch.randn(12, 16), torch.randn(12, 16)
    for embedding, query, result in zip(embeddings, queries, module(embeddings, queries), strict=True):
        hidden = module.reduce.weight @ (embedding + query)
        hidden = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + 1e-5).sqrt()
        hidden = (hidden * module.norm.weight + module.norm.bias).clamp(min=0)
        gates = 1 / (1 + torch.exp(-(module.expand.weight @ hidden + module.expand.bias)))
        torch.testing.assert_close(result, gates[:16] * embedding + gates[16:] * query, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_summation_and_concatenation():
    embeddings, queries = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    torch.testing.assert_close(Summation()(embeddings, queries), embeddings + queries)
    torch.testing.assert_close(NoIteration()(embeddings, queries), embeddings + queries)
    module = Concatenation(tiny_config())
    wanted = embeddings @ module.fuse.weight[:, :16].T + queries @ module.fuse.weight[:, 16:].T + module.fuse.bias
    torch.testing.assert_close(module(embeddings, queries), wanted)


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
