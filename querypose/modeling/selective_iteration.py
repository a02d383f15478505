"""Selective Iteration Module, SIM (Section 3.3, Figure 2d, Eq. 3)."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

PART_UPDATE_REGISTRY = Registry("PART_UPDATE")
PART_UPDATE_REGISTRY.__doc__ = """
Registry of modules that update the part queries with the part embeddings of a stage, named by
`MODEL.QUERYPOSE.PART_UPDATE`.

A registered class is an `nn.Module` built as `cls(cfg)`. Its `forward(embeddings, queries)` takes the embeddings
made in this stage and the part queries of the stage before, both (R, M, dp), and returns the new queries (R, M, dp).
With the class attribute `iterates = False` they serve their own stage only: the next one starts from the learnable
part queries again (Table 2a).
"""


@PART_UPDATE_REGISTRY.register()
class SelectiveIteration(nn.Module):
    """Two gates, computed from the sum of both, weigh embeddings and queries channel by channel (Eq. 3)."""

    @configurable
    def __init__(self, *, part_dim: int):
        super().__init__()
        self.reduce = nn.Linear(part_dim, part_dim // 4, bias=False)
        self.norm = nn.LayerNorm(part_dim // 4)
        self.expand = nn.Linear(part_dim // 4, 2 * part_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"part_dim": cfg.MODEL.QUERYPOSE.PART_DIM}

    def forward(self, embeddings: Tensor, queries: Tensor) -> Tensor:
        """embeddings (R, M, dp), queries (R, M, dp) -> queries (R, M, dp)."""
        hidden = F.relu(self.norm(self.reduce(embeddings + queries)))
        embedding_gate, query_gate = torch.sigmoid(self.expand(hidden)).chunk(2, dim=-1)
        return embedding_gate * embeddings + query_gate * queries
