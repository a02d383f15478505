"""The interactions of Table 1, each written out query by query."""

import pytest
import torch
from tiny_model import tiny_config
from torch.nn import functional as F

from querypose.modeling.ablations import DynamicSpatialMLP, MultiHeadSelfAttention, PartSelfAttention, SpatialAttention
from querypose.modeling.query_interaction import DynamicChannelMLP

DIM, HEADS, PLACES = 16, 4, 9
CONFIG = tiny_config("light", "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION", 3, "MODEL.QUERYPOSE.PART_DIM", 12)


def randomly(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
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
    sequence = torch.cat([queries, module.project(tokens)])
    weights, biases = module.attention.in_proj_weight.chunk(3), module.attention.in_proj_bias.chunk(3)
    q = queries @ weights[0].T + biases[0]
    k, v = (sequence @ w.T + b for w, b in zip(weights[1:], biases[1:], strict=True))
    size = q.shape[1] // HEADS
    heads = []
    for part in (slice(head * size, (head + 1) * size) for head in range(HEADS)):
        heads.append(torch.softmax(q[:, part] @ k[:, part].T / size**0.5, dim=1) @ v[:, part])
    return torch.cat(heads, dim=1) @ module.attention.out_proj.weight.T + module.attention.out_proj.bias


@torch.no_grad()
@pytest.mark.parametrize("width", [DIM, 12])
@pytest.mark.parametrize("interaction", [DynamicChannelMLP, DynamicSpatialMLP, MultiHeadSelfAttention])
def test_interactions_by_hand(interaction, width):
    module = randomly(interaction(CONFIG, PLACES, width))
    queries, tokens = torch.randn(3, 2, width), torch.randn(3, PLACES, DIM)
    for result, mine, region in zip(module(queries, tokens), queries, tokens, strict=True):
        if interaction is MultiHeadSelfAttention:
            wanted = attention_by_hand(module, mine, region)
        else:
            region = region if interaction is DynamicChannelMLP else region.T
            wanted = torch.stack([mlp_by_hand(module, query, region) for query in mine])
        torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-3)
    assert module(queries[:0], tokens[:0]).shape == (0, 2, width)


@torch.no_grad()
def test_global_attention_weighs_the_whole_region():
    module = SpatialAttention(CONFIG, PLACES, DIM).eval()
    module.init_weights()
    module.embedding.attention.weight.zero_()
    tokens = torch.randn(3, PLACES, DIM)
    # with an undecided map the instance embedding is the mean of the upsampled region, place (row, column) in order
    upsampled = module.embedding.upsample(tokens.transpose(1, 2).reshape(3, DIM, 3, 3))
    wanted = module.embedding.project(upsampled.mean(dim=(2, 3)))
    torch.testing.assert_close(module(torch.randn(3, 2, DIM), tokens), torch.stack([wanted, wanted], dim=1))


@torch.no_grad()
def test_part_queries_read_their_own_region():
    module = randomly(PartSelfAttention(CONFIG, 5))
    regions, queries = torch.randn(2, DIM, 3, 3), torch.randn(2, 5, 12)
    embeddings, attention = module(regions, queries)
    wanted = attention_by_hand(module.interaction, queries[1], regions[1].reshape(DIM, PLACES).T)
    torch.testing.assert_close(embeddings[1], wanted, rtol=1e-4, atol=1e-4)
    assert attention is None and module.makes_attention is False
