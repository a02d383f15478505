"""The interactions of Table 1, each written out query by query."""

import pytest
import torch
from torch.nn import functional as F

from querypose.modeling.ablations import (
    DynamicSpatialMLP,
    MultiHeadSelfAttention,
    PartSelfAttention,
    SpatialAttention,
)
from querypose.modeling.query_interaction import DynamicChannelMLP

DIM, HEADS, PLACES = 8, 2, 9


def randomly(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module.eval()


def mlp_by_hand(module, query, tokens):
    """query (c,), tokens (places, width) -> (c,): an MLP over the width, whose weights the query makes."""
    width, hidden = tokens.shape[1], module.hidden_dim
    weights = module.generator.weight @ query + module.generator.bias
    first, second = weights[: width * hidden].reshape(width, hidden), weights[width * hidden :]
    inner = F.layer_norm(tokens @ first, (hidden,), module.norm1.weight, module.norm1.bias).relu()
    outer = inner @ second.reshape(hidden, width)
    outer = F.layer_norm(outer, (width,), module.norm2.weight, module.norm2.bias).relu()
    flat = module.output.weight @ outer.reshape(-1) + module.output.bias
    return F.layer_norm(flat, flat.shape, module.norm3.weight, module.norm3.bias).relu()


def attention_by_hand(module, queries, tokens):
    """queries (M, c), tokens (places, d) -> (M, c): softmax attention over the queries and the places, head by head."""
    mapped = module.project(tokens)
    sequence = torch.cat([queries, mapped])
    weights, biases = module.attention.in_proj_weight.chunk(3), module.attention.in_proj_bias.chunk(3)
    q = queries @ weights[0].T + biases[0]
    k, v = (sequence @ w.T + b for w, b in zip(weights[1:], biases[1:], strict=True))
    size = q.shape[1] // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        heads.append(torch.softmax(q[:, part] @ k[:, part].T / size**0.5, dim=1) @ v[:, part])
    return torch.cat(heads, dim=1) @ module.attention.out_proj.weight.T + module.attention.out_proj.bias


@torch.no_grad()
@pytest.mark.parametrize("width", [DIM, 6])
@pytest.mark.parametrize("mlp", [DynamicChannelMLP, DynamicSpatialMLP])
def test_dynamic_mlps_over_channels_and_over_places(mlp, width):
    module = randomly(mlp(dim=DIM, hidden_dim=4, num_tokens=PLACES, query_dim=width))
    queries, tokens = torch.randn(3, 2, width), torch.randn(3, PLACES, DIM)
    result = module(queries, tokens)
    for row in range(3):
        for part in range(2):
            region = tokens[row] if mlp is DynamicChannelMLP else tokens[row].T
            wanted = mlp_by_hand(module, queries[row, part], region)
            torch.testing.assert_close(result[row, part], wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("width", [DIM, 6])
def test_self_attention_of_queries_and_places(width):
    module = randomly(MultiHeadSelfAttention(dim=DIM, num_heads=HEADS, query_dim=width))
    queries, tokens = torch.randn(3, 2, width), torch.randn(3, PLACES, DIM)
    result = module(queries, tokens)
    for row in range(3):
        wanted = attention_by_hand(module, queries[row], tokens[row])
        torch.testing.assert_close(result[row], wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_global_attention_weighs_the_whole_region():
    module = SpatialAttention(dim=DIM, num_tokens=PLACES).eval()
    module.init_weights()
    module.embedding.attention.weight.zero_()
    tokens = torch.randn(3, PLACES, DIM)
    # with an undecided map the instance embedding is the mean of the upsampled region, place (row, column) in order
    upsampled = module.embedding.upsample(tokens.transpose(1, 2).reshape(3, DIM, 3, 3))
    wanted = module.embedding.project(upsampled.mean(dim=(2, 3)))
    torch.testing.assert_close(module(torch.randn(3, DIM), tokens), wanted)


CLASSES = {
    DynamicChannelMLP: {"dim": DIM, "hidden_dim": 4, "num_tokens": PLACES},
    DynamicSpatialMLP: {"dim": DIM, "hidden_dim": 4, "num_tokens": PLACES},
    MultiHeadSelfAttention: {"dim": DIM, "num_heads": HEADS},
    SpatialAttention: {"dim": DIM, "num_tokens": PLACES},
}


@torch.no_grad()
@pytest.mark.parametrize("interaction", CLASSES)
def test_the_contract(interaction):
    module = randomly(interaction(**CLASSES[interaction]))
    queries, tokens = torch.randn(5, DIM), torch.randn(5, PLACES, DIM)
    before = module(queries, tokens)
    torch.testing.assert_close(module(queries[:, None], tokens)[:, 0], before)
    several = module(queries[:, None].repeat(1, 3, 1), tokens)
    assert several.shape == (5, 3, DIM)
    torch.testing.assert_close(several[:, 0], several[:, 2])
    tokens[2] = torch.randn(PLACES, DIM)
    changed = (module(queries, tokens) - before).abs().amax(dim=1) > 1e-3
    assert changed.tolist() == [False, False, True, False, False]
    assert module(queries[:0], tokens[:0]).shape == (0, DIM)


@torch.no_grad()
def test_part_queries_read_their_own_region():
    module = randomly(PartSelfAttention(interaction=MultiHeadSelfAttention(dim=DIM, num_heads=HEADS, query_dim=4)))
    regions, queries = torch.randn(2, DIM, 3, 3), torch.randn(2, 5, 4)
    embeddings, attention = module(regions, queries)
    tokens = regions[1].reshape(DIM, PLACES).T
    torch.testing.assert_close(embeddings[1], attention_by_hand(module.interaction, queries[1], tokens))
    assert attention is None and module.makes_attention is False
