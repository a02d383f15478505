"""The variants that Tables 1 to 3 of the paper compare; docs/ABLATIONS.md says why they are so."""

import math
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from querypose.modeling.keypoint_stage import (
    KEYPOINT_STAGE_REGISTRY,
    StageOutput,
    build_instance_interaction,
    build_tower,
)
from querypose.modeling.losses.keypoint_loss import KEYPOINT_LOSS_REGISTRY
from querypose.modeling.part_heads import KeypointHeads
from querypose.modeling.query_interaction import QUERY_INTERACTION_REGISTRY, DynamicChannelMLP
from querypose.modeling.selective_iteration import PART_UPDATE_REGISTRY
from querypose.modeling.spegm import PART_EMBEDDING_REGISTRY, SPEGM
from querypose.modeling.transformer import FeedForward

# Table 1: how queries read their region


@QUERY_INTERACTION_REGISTRY.register()
class DynamicSpatialMLP(DynamicChannelMLP):
    """DyMLP_spatial of Table 1: `DynamicChannelMLP`, with its arguments, locations and channels exchanged."""

    @configurable
    def __init__(self, *, dim: int, hidden_dim: int, num_tokens: int, query_dim: int):
        super().__init__(dim=num_tokens, hidden_dim=hidden_dim, num_tokens=dim, query_dim=query_dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        return super().forward(queries, tokens.transpose(1, 2))


@QUERY_INTERACTION_REGISTRY.register()
class MultiHeadSelfAttention(nn.Module):
    """MHSA of Table 1: one self-attention layer over the sequence of a region's queries and locations.

    Only the queries' part of its output is computed. As in the SPEGM, locations have no position encoding. Features are
    mapped to the width of the queries where that is another one.
    """

    @configurable
    def __init__(self, *, dim: int, num_heads: int, query_dim: int):
        super().__init__()
        self.project = nn.Identity() if query_dim == dim else nn.Linear(dim, query_dim)
        self.attention = nn.MultiheadAttention(query_dim, num_heads, batch_first=True)

    @classmethod
    def from_config(cls, cfg: CfgNode, num_tokens: int, query_dim: int) -> dict[str, Any]:
        config = cfg.MODEL.QUERYPOSE
        return {"dim": config.HIDDEN_DIM, "num_heads": config.NUM_HEADS, "query_dim": query_dim}

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        sequence = torch.cat([queries, self.project(tokens)], dim=1)
        return self.attention(queries, sequence, sequence, need_weights=False)[0]


@QUERY_INTERACTION_REGISTRY.register()
class SpatialAttention(nn.Module):
    """Spatial Attn. of Table 1: an SPEGM with one map makes an instance embedding, the same for each of M queries."""

    @configurable
    def __init__(self, *, dim: int, num_tokens: int, query_dim: int):
        super().__init__()
        self.side = math.isqrt(num_tokens)
        self.embedding = SPEGM(dim=dim, part_dim=query_dim, num_parts=1)

    @classmethod
    def from_config(cls, cfg: CfgNode, num_tokens: int, query_dim: int) -> dict[str, Any]:
        return {"dim": cfg.MODEL.QUERYPOSE.HIDDEN_DIM, "num_tokens": num_tokens, "query_dim": query_dim}

    def init_weights(self) -> None:
        self.embedding.init_weights()

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        regions = tokens.transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.embedding(regions)[0].expand_as(queries)


class PartInteraction(nn.Module):
    """PQ rows of Table 1: what an interaction, shared by all parts, adds to the part queries is their embedding."""

    makes_attention = False
    interaction_class: ClassVar[type[nn.Module]]  # of QUERY_INTERACTION_REGISTRY, given by the subclass

    @configurable
    def __init__(self, *, interaction: nn.Module):
        super().__init__()
        self.interaction = interaction

    @classmethod
    def from_config(cls, cfg: CfgNode, num_parts: int) -> dict[str, Any]:
        num_tokens = cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION**2
        return {"interaction": cls.interaction_class(cfg, num_tokens, cfg.MODEL.QUERYPOSE.PART_DIM)}

    def forward(self, regions: Tensor, queries: Tensor) -> tuple[Tensor, None]:
        """regions (R, d, H, W), part queries (R, M, dp) -> embeddings (R, M, dp) and no maps."""
        return self.interaction(queries, regions.flatten(2).transpose(1, 2)), None


@PART_EMBEDDING_REGISTRY.register()
class PartSelfAttention(PartInteraction):
    """PQ MHSA of Table 1: the M part queries and the locations of the region attend to each other."""

    interaction_class = MultiHeadSelfAttention


@PART_EMBEDDING_REGISTRY.register()
class PartDynamicChannelMLP(PartInteraction):
    """PQ DyMLP_channel of Table 1: every part query makes an MLP over the channels of the region's locations."""

    interaction_class = DynamicChannelMLP


@PART_EMBEDDING_REGISTRY.register()
class PartDynamicSpatialMLP(PartInteraction):
    """PQ DyMLP_spatial of Table 1: every part query makes an MLP over the locations of the region's channels."""

    interaction_class = DynamicSpatialMLP


# Table 2a: how part queries iterate


@PART_UPDATE_REGISTRY.register()
class Summation(nn.Module):
    """Q^s = E^s + Q^{s-1} (Summation, Table 2a); without parameters."""

    def __init__(self, cfg: CfgNode | None = None):
        super().__init__()

    def forward(self, embeddings: Tensor, queries: Tensor) -> Tensor:
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
        super().__init__()
        self.fuse = nn.Linear(2 * part_dim, part_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"part_dim": cfg.MODEL.QUERYPOSE.PART_DIM}

    def forward(self, embeddings: Tensor, queries: Tensor) -> Tensor:
        return self.fuse(torch.cat([embeddings, queries], dim=-1))


# Keypoint stages without part queries


@KEYPOINT_STAGE_REGISTRY.register()
class PooledKeypointStage(nn.Module):
    """The baseline (Section 4.2, Table 2b): tower, global average pooling, heads; no query takes part."""

    has_parts = False
    variants: tuple[str, ...] = ("light",)

    @configurable
    def __init__(self, *, num_keypoints: int, dim: int, tower_dim: int, num_tower_layers: int, with_sigma: bool = True):
        super().__init__()
        self.tower = build_tower(dim, tower_dim, num_tower_layers)
        self.heads = KeypointHeads([0] * num_keypoints, dim, with_sigma)

    @classmethod
    def from_config(cls, cfg: CfgNode, part_of_keypoint: list[int]) -> dict[str, Any]:
        config = cfg.MODEL.QUERYPOSE
        return {
            "num_keypoints": len(part_of_keypoint),
            "dim": config.HIDDEN_DIM,
            "tower_dim": config.TOWER_DIM,
            "num_tower_layers": config.NUM_TOWER_LAYERS,
            "with_sigma": KEYPOINT_LOSS_REGISTRY.get(config.KEYPOINT_LOSS).uses_sigma,
        }

    def forward(self, regions: Tensor, instance_queries: Tensor, part_queries: None) -> StageOutput:
        """As `KeypointStage.forward`; the instance queries (R, d) go out as they come in."""
        coordinates, sigmas = self.heads(self.tower(regions).mean(dim=(2, 3))[:, None])
        return coordinates, sigmas, instance_queries, None, None


@KEYPOINT_STAGE_REGISTRY.register()
class InstanceKeypointStage(PooledKeypointStage):
    """The instance query reads the tower's features and holds all keypoints (the IQ rows of Table 1)."""

    variants = ("full", "branched")

    @configurable
    def __init__(self, *, instance_interaction: nn.Module, dim: int, feedforward_dim: int, **kwargs: Any):
        super().__init__(dim=dim, **kwargs)
        self.instance_interaction = instance_interaction
        self.instance_norm = nn.LayerNorm(dim)
        self.instance_feedforward = FeedForward(dim, feedforward_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode, part_of_keypoint: list[int]) -> dict[str, Any]:
        return {
            "instance_interaction": build_instance_interaction(cfg),
            "feedforward_dim": cfg.MODEL.QUERYPOSE.FEEDFORWARD_DIM,
            **super().from_config(cfg, part_of_keypoint),
        }

    def forward(self, regions: Tensor, instance_queries: Tensor, part_queries: None) -> StageOutput:
        """As `KeypointStage.forward`; the instance queries (R, d) go out updated."""
        tokens = self.tower(regions).flatten(2).transpose(1, 2)
        updated = self.instance_interaction(instance_queries[:, None], tokens)[:, 0]
        instance_queries = self.instance_feedforward(self.instance_norm(instance_queries + updated))
        coordinates, sigmas = self.heads(instance_queries[:, None])
        return coordinates, sigmas, instance_queries, None, None
