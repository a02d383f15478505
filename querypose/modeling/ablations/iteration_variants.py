"""The other ways to iterate the part queries that Table 2a compares; docs/ABLATIONS.md says why they are so."""

import torch
from detectron2.config import configurable
from torch import Tensor, nn

from querypose.modeling.selective_iteration import PART_UPDATE_REGISTRY


@PART_UPDATE_REGISTRY.register()
class Summation(nn.Module):
    """Q^s = E^s + Q^{s-1} (Summation, Table 2a); without parameters."""

    def __init__(self, cfg=None):
        super().__init__()

    def forward(self, embeddings: Tensor, queries: Tensor) -> Tensor:
        """embeddings (R, M, dp), queries (R, M, dp) -> queries (R, M, dp)."""
        return embeddings + queries


@PART_UPDATE_REGISTRY.register()
class NoIteration(Summation):
    """Q^s = E^s + Q^0 (None, Table 2a): every stage starts from the learnable part queries anew."""

    iterates = False


@PART_UPDATE_REGISTRY.register()
class Concatenation(nn.Module):
    """Q^s = Linear([E^s, Q^{s-1}]) (Concatenation, Table 2a)."""

    @configurable
    def __init__(self, *, part_dim: int):
        """part_dim: dp, the width of a part query."""
        super().__init__()
        self.fuse = nn.Linear(2 * part_dim, part_dim)

    @classmethod
    def from_config(cls, cfg):
        return {"part_dim": cfg.MODEL.QUERYPOSE.PART_DIM}

    def forward(self, embeddings: Tensor, queries: Tensor) -> Tensor:
        """embeddings (R, M, dp), queries (R, M, dp) -> queries (R, M, dp)."""
        return self.fuse(torch.cat([embeddings, queries], dim=-1))
