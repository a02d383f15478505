"""The other ways in which queries read their region that Table 1 compares; docs/ABLATIONS.md says why they are so."""

import math

import torch
from detectron2.config import configurable
from torch import Tensor, nn

from querypose.modeling.query_interaction import QUERY_INTERACTION_REGISTRY, DynamicChannelMLP
from querypose.modeling.spegm import SPEGM


@QUERY_INTERACTION_REGISTRY.register()
class DynamicSpatialMLP(DynamicChannelMLP):
    """A two-layer MLP over the locations of each channel, its weights made by the query (DyMLP_spatial, Table 1).

    `DynamicChannelMLP` with locations and channels exchanged.
    """

    @configurable
    def __init__(self, *, dim: int, hidden_dim: int, num_tokens: int, query_dim: int | None = None):
        """The arguments are those of `DynamicChannelMLP`."""
        super().__init__(dim=num_tokens, hidden_dim=hidden_dim, num_tokens=dim, query_dim=query_dim or dim)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """query (R, c) or (R, M, c), tokens (R, num_tokens, d) -> the query's shape."""
        return super().forward(query, tokens.transpose(1, 2))


@QUERY_INTERACTION_REGISTRY.register()
class MultiHeadSelfAttention(nn.Module):
    """One self-attention layer over the sequence of a region's queries and locations (MHSA, Table 1).

    Of its output only the queries' part is used, so only that is computed. As in the SPEGM, locations have no position
    encoding.
    """

    @configurable
    def __init__(self, *, dim: int, num_heads: int, query_dim: int | None = None, dropout: float = 0.0):
        """
        Args:
            dim: d, the width of the features; they are mapped to the queries' width where it differs.
            num_heads: heads of the attention.
            query_dim: c, the width of the queries; None: as the features.
        """
        super().__init__()
        query_dim = query_dim or dim
        self.project = nn.Identity() if query_dim == dim else nn.Linear(dim, query_dim)
        self.attention = nn.MultiheadAttention(query_dim, num_heads, dropout=dropout, batch_first=True)

    @classmethod
    def from_config(cls, cfg, num_tokens: int, query_dim: int | None = None):
        config = cfg.MODEL.QUERYPOSE
        return {
            "dim": config.HIDDEN_DIM,
            "num_heads": config.NUM_HEADS,
            "query_dim": query_dim,
            "dropout": config.DROPOUT,
        }

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """query (R, c) or (R, M, c), tokens (R, num_tokens, d) -> the query's shape."""
        queries = query if query.dim() == 3 else query[:, None]
        sequence = torch.cat([queries, self.project(tokens)], dim=1)
        attended, _ = self.attention(queries, sequence, sequence, need_weights=False)
        return attended.view(query.shape)


@QUERY_INTERACTION_REGISTRY.register()
class SpatialAttention(nn.Module):
    """Global spatial attention (Spatial Attn., Table 1): an SPEGM with one map makes an instance embedding."""

    @configurable
    def __init__(self, *, dim: int, num_tokens: int, query_dim: int | None = None):
        """
        Args:
            dim: d, the width of the features.
            num_tokens: number of locations in a region, a square number.
            query_dim: c, the width of the queries; None: as the features.
        """
        super().__init__()
        self.side = math.isqrt(num_tokens)
        self.embedding = SPEGM(dim=dim, part_dim=query_dim or dim, num_parts=1)

    @classmethod
    def from_config(cls, cfg, num_tokens: int, query_dim: int | None = None):
        return {"dim": cfg.MODEL.QUERYPOSE.HIDDEN_DIM, "num_tokens": num_tokens, "query_dim": query_dim}

    def init_weights(self) -> None:
        """Undecided attention, as of the SPEGM."""
        self.embedding.init_weights()

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """query (R, c) or (R, M, c), tokens (R, num_tokens, d) -> the query's shape, the same for each of the M."""
        regions = tokens.transpose(1, 2).unflatten(2, (self.side, self.side))
        embedding, _ = self.embedding(regions)  # (R, 1, c)
        return embedding.expand_as(query) if query.dim() == 3 else embedding[:, 0]
