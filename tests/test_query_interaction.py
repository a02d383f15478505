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
