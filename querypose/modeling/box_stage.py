"""One stage of the box decoder, after Sparse R-CNN (Section 3.1, Eq. 1)."""

import math
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn

from querypose.modeling.ops.pyramid_pooling import pool_every_level, pool_own_level
from querypose.modeling.query_interaction import QUERY_INTERACTION_REGISTRY
from querypose.modeling.transformer import FeedForward, SelfAttention


class BoxStage(nn.Module):
    """Refines the instance queries with the features of their boxes, then class and box with the queries."""

    @configurable
    def __init__(
        self,
        *,
        feature_strides: list[int],
        resolution: int,
        interaction: nn.Module,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
    ):
        """feature_strides: finest first; resolution: height and width of the RoI features (7); dim: d."""
        super().__init__()
        scales = [1.0 / stride for stride in feature_strides]
        self.pooler = ROIPooler(resolution, scales, sampling_ratio=2, pooler_type="ROIAlignV2")
        self.self_attention = SelfAttention(dim, num_heads)
        self.interaction = interaction
        self.interaction_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim)
        self.class_branch = _branch(dim, 1)
        self.class_logit = nn.Linear(dim, 1)
        self.box_branch = _branch(dim, 3)
        self.box_delta = nn.Linear(dim, 4)
        # as in Sparse R-CNN: a box may grow to 100000 / 16 times its size in one stage
        self.box_transform = Box2BoxTransform(weights=(2.0, 2.0, 1.0, 1.0), scale_clamp=math.log(100000.0 / 16))

    @classmethod
    def from_config(cls, cfg: CfgNode, feature_strides: list[int]) -> dict[str, Any]:
        config, size = cfg.MODEL.QUERYPOSE, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        interaction = QUERY_INTERACTION_REGISTRY.get(config.QUERY_INTERACTION)
        return {
            "feature_strides": feature_strides,
            "resolution": size,
            "interaction": interaction(cfg, size * size, config.HIDDEN_DIM),
            "dim": config.HIDDEN_DIM,
            "num_heads": config.NUM_HEADS,
            "feedforward_dim": config.FEEDFORWARD_DIM,
        }

    def pool(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """feature maps (B, d, H_l, W_l), boxes (B, N, 4) in pixels -> RoI features (B * N, d, 7, 7)."""
        pool = pool_every_level if self.training and features[0].is_cuda else pool_own_level
        return pool(self.pooler, features, boxes)

    def forward(self, regions: Tensor, boxes: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            regions: (B * N, d, 7, 7) RoI features of the boxes.
            boxes: (B, N, 4) corners x0, y0, x1, y1 in pixels of the network's input.
            queries: (B, N, d) instance queries.

        Returns:
            logits (B, N, 1), refined boxes (B, N, 4) in pixels and in float32, refined queries (B, N, d).
        """
        batch, number, dim = queries.shape
        tokens = regions.flatten(2).transpose(1, 2)  # (R, locations, d)

        queries = self.self_attention(queries).reshape(batch * number, dim)
        queries = self.interaction_norm(queries + self.interaction(queries[:, None], tokens)[:, 0])
        queries = self.feedforward(queries)

        logits = self.class_logit(self.class_branch(queries))
        deltas = self.box_delta(self.box_branch(queries))
        # exp() of a delta needs more than 8 bits of mantissa
        with torch.autocast(deltas.device.type, enabled=False):
            refined = self.box_transform.apply_deltas(deltas.float(), boxes.reshape(-1, 4).float())
        return logits.view(batch, number, 1), refined.view(batch, number, 4), queries.view(batch, number, dim)


def _branch(dim: int, num_layers: int) -> nn.Sequential:
    layers = []
    for _ in range(num_layers):
        layers += [nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
