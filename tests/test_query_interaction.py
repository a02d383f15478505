"""The dynamic MLP, query by query."""

import torch
from torch.nn import functional as F

from querypose.modeling.query_interaction import DynamicChannelMLP


def by_hand(module, query, tokens):
    """query (d,), tokens (places, d) -> (d,): the weights that the query makes, on its own region."""
    dim, hidden_dim = module.dim, module.hidden_dim
    weights = module.generator.weight @ query + module.generator.bias
    first = weights[: dim * hidden_dim].reshape(dim, hidden_dim)
    second = weights[dim * hidden_dim :].reshape(hidden_dim, dim)
    tokens = torch.einsum("pd,dh->ph", tokens, first)
    tokens = F.layer_norm(tokens, (hidden_dim,), module.norm1.weight, module.norm1.bias).relu()
    tokens = torch.einsum("ph,hd->pd", tokens, second)
    tokens = F.layer_norm(tokens, (dim,), module.norm2.weight, module.norm2.bias).relu()
    flat = module.output.weight @ tokens.reshape(-1) + module.output.bias
    return F.layer_norm(flat, (dim,), module.norm3.weight, module.norm3.bias).relu()


def random_module():
    module = DynamicChannelMLP(dim=8, hidden_dim=4, num_tokens=9)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


@torch.no_grad()
def test_every_query_sees_its_own_region():
    module, queries, tokens = random_module(), torch.randn(5, 8), torch.randn(5, 9, 8)
    result = module(queries, tokens)
    for row in range(5):
        torch.testing.assert_close(result[row], by_hand(module, queries[row], tokens[row]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_another_region_changes_one_query_only():
    module, queries, tokens = random_module(), torch.randn(5, 8), torch.randn(5, 9, 8)
    before = module(queries, tokens)
    tokens[2] = torch.randn(9, 8)
    after = module(queries, tokens)
    changed = (after - before).abs().amax(dim=1) > 1e-3
    assert changed.tolist() == [False, False, True, False, False]


def test_parameters_of_the_paper_s_size():
    for places, expected in ((7 * 7, 11_634_048), (14 * 14, 21_267_840)):
        generator, output = 2 * 256 * 64 * (256 + 1), 256 * (places * 256 + 1)
        norms = 2 * 64 + 2 * 256 + 2 * 256
        module = DynamicChannelMLP(dim=256, hidden_dim=64, num_tokens=places)
        assert sum(p.numel() for p in module.parameters()) == generator + output + norms == expected


def test_nobody():
    assert random_module()(torch.zeros(0, 8), torch.zeros(0, 9, 8)).shape == (0, 8)
