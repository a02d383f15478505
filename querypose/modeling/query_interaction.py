"""How a query reads the features of its region: the dynamic channel MLP (Eq. 1)."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

QUERY_INTERACTION_REGISTRY = Registry("QUERY_INTERACTION")
QUERY_INTERACTION_REGISTRY.__doc__ = """
Registry of interactions between queries and the features of their region: `MODEL.QUERYPOSE.QUERY_INTERACTION` names
the box stage's, `MODEL.QUERYPOSE.KEYPOINT_INTERACTION` that of the keypoint stage (Table 1; not in the light variant).

A registered class is an `nn.Module` built as `cls(cfg, num_tokens, query_dim)`, with `num_tokens` locations in the
square region (7 x 7 in the box stage, 14 x 14 in the keypoint stage) and `query_dim` the width c of the queries. Its
`forward(queries, tokens)` takes the queries (R, M, c), M of which read the same region, and the region's features
(R, num_tokens, d), and returns what the caller adds to the queries, (R, M, c). It may offer `init_weights()`, as a part
embedding may.
"""


@QUERY_INTERACTION_REGISTRY.register()
class DynamicChannelMLP(nn.Module):
    """A two-layer MLP over the channels of each location, its weights made by the query (DyMLP_channel, Eq. 1)."""

    @configurable
    def __init__(self, *, dim: int, hidden_dim: int, num_tokens: int, query_dim: int):
        """dim: d; hidden_dim: between the two generated layers; num_tokens, query_dim: as of the registry."""
        super().__init__()
        self.dim = dim
        self.hidden_dim = hidden_dim
        self.generator = nn.Linear(query_dim, 2 * dim * hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.output = nn.Linear(num_tokens * dim, query_dim)
        self.norm3 = nn.LayerNorm(query_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode, num_tokens: int, query_dim: int) -> dict[str, Any]:
        sizes = {"dim": cfg.MODEL.QUERYPOSE.HIDDEN_DIM, "hidden_dim": cfg.MODEL.QUERYPOSE.DYNAMIC_DIM}
        return {**sizes, "num_tokens": num_tokens, "query_dim": query_dim}

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """queries (R, M, c), tokens (R, num_tokens, d) -> (R, M, c)."""
        first, second = self.generator(queries).split(self.dim * self.hidden_dim, dim=2)
        hidden = torch.einsum("rpd,rmdh->rmph", tokens, first.unflatten(2, (self.dim, self.hidden_dim)))
        hidden = F.relu(self.norm1(hidden))
        hidden = torch.einsum("rmph,rmhd->rmpd", hidden, second.unflatten(2, (self.hidden_dim, self.dim)))
        hidden = F.relu(self.norm2(hidden))
        return F.relu(self.norm3(self.output(hidden.flatten(2))))
