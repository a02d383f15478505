"""Equation 3, written out."""

import torch

from querypose.modeling.selective_iteration import SelectiveIteration


def by_hand(module, embeddings, queries):
    """One part query at a time, with LayerNorm and sigmoid spelled out."""
    dim = queries.shape[-1]
    result = torch.empty_like(queries)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in queries.shape[:2])).tolist():
        embedding, query = embeddings[tuple(index)], queries[tuple(index)]
        hidden = module.reduce.weight @ (embedding + query)
        hidden = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + 1e-5).sqrt()
        hidden = (hidden * module.norm.weight + module.norm.bias).clamp(min=0)
        gates = 1 / (1 + torch.exp(-(module.expand.weight @ hidden + module.expand.bias)))
        assert ((gates > 0) & (gates < 1)).all()
        result[tuple(index)] = gates[:dim] * embedding + gates[dim:] * query
    return result


@torch.no_grad()
def test_equation_3():
    module = SelectiveIteration(part_dim=16)
    for parameter in module.parameters():
        parameter.normal_()
    embeddings, queries = torch.randn(4, 3, 16), torch.randn(4, 3, 16)
    torch.testing.assert_close(module(embeddings, queries), by_hand(module, embeddings, queries), rtol=1e-4, atol=1e-5)
