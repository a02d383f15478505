"""One stage of the keypoint decoder: tower, SPEGM, SIM, self-attention over the parts, heads (Section 3.1, Eq. 2)."""

import torch
from detectron2.config import configurable
from torch import Tensor, nn
from torchvision.ops import roi_align

from querypose.modeling.part_heads import KeypointHeads, PartLinear
from querypose.modeling.query_interaction import build_query_interaction
from querypose.modeling.selective_iteration import PART_UPDATE_REGISTRY
from querypose.modeling.spegm import PART_EMBEDDING_REGISTRY
from querypose.modeling.transformer import FeedForward, SelfAttention


class KeypointStage(nn.Module):
    """Updates the part queries of R persons with the features of their boxes and reads the keypoints from them."""

    @configurable
    def __init__(
        self,
        *,
        part_embedding: nn.Module,
        part_update: nn.Module,
        instance_interaction: nn.Module | None,
        part_of_keypoint: list[int],
        dim: int,
        part_dim: int,
        tower_dim: int,
        num_tower_layers: int,
        num_heads: int,
        feedforward_dim: int,
        pooler_resolution: int,
        stride: int,
        dropout: float = 0.0,
    ):
        """
        Args:
            part_embedding, part_update: as PART_EMBEDDING_REGISTRY and PART_UPDATE_REGISTRY state.
            instance_interaction: as QUERY_INTERACTION_REGISTRY states; None makes the light variant, which
                leaves the instance query as it is.
            part_of_keypoint: for each of the K keypoints the index of its part.
            dim: d; part_dim: dp; tower_dim: width inside the tower of num_tower_layers convolutions.
            num_heads, feedforward_dim, dropout: of the attention blocks.
            pooler_resolution: side of the region in places (14).
            stride: pixels of the input per place of the feature map (4 for P2).
        """
        super().__init__()
        num_parts = max(part_of_keypoint) + 1
        self.pooler_resolution = pooler_resolution
        self.spatial_scale = 1.0 / stride
        self.tower = _tower(dim, tower_dim, num_tower_layers)
        self.instance_interaction = instance_interaction
        if instance_interaction is not None:
            self.instance_norm = nn.LayerNorm(dim)
            self.instance_feedforward = FeedForward(dim, feedforward_dim, dropout)
        self.part_embedding = part_embedding
        self.instance_to_part = PartLinear(num_parts, dim, part_dim)
        self.part_update = part_update
        self.self_attention = SelfAttention(part_dim, num_heads, dropout)
        self.feedforward = FeedForward(part_dim, feedforward_dim, dropout)
        self.heads = KeypointHeads(part_of_keypoint, part_dim)

    @classmethod
    def from_config(cls, cfg, part_of_keypoint: list[int], stride: int):
        config = cfg.MODEL.QUERYPOSE
        num_parts = max(part_of_keypoint) + 1
        size = config.KEYPOINT_POOLER_RESOLUTION
        full = config.VARIANT == "full"
        return {
            "part_embedding": PART_EMBEDDING_REGISTRY.get(config.PART_EMBEDDING)(cfg, num_parts),
            "part_update": PART_UPDATE_REGISTRY.get(config.PART_UPDATE)(cfg),
            "instance_interaction": build_query_interaction(cfg, size * size) if full else None,
            "part_of_keypoint": part_of_keypoint,
            "dim": config.HIDDEN_DIM,
            "part_dim": config.PART_DIM,
            "tower_dim": config.TOWER_DIM,
            "num_tower_layers": config.NUM_TOWER_LAYERS,
            "num_heads": config.NUM_HEADS,
            "feedforward_dim": config.FEEDFORWARD_DIM,
            "pooler_resolution": size,
            "stride": stride,
            "dropout": config.DROPOUT,
        }

    def forward(
        self,
        feature: Tensor,
        boxes: Tensor,
        image_index: Tensor,
        instance_queries: Tensor,
        part_queries: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            feature: the finest feature map, P2 (B, d, H, W).
            boxes: (R, 4) corners in pixels of the network's input, detached.
            image_index: (R,) the image in the batch that each row belongs to.
            instance_queries: (R, d); part_queries: (R, M, dp).

        Returns:
            coordinates (R, K, 2) and sigmas (R, K, 2) in box units, then the updated instance queries (R, d)
            (in the light variant the given ones) and part queries (R, M, dp).
        """
        rois = torch.cat([image_index[:, None].to(boxes), boxes], dim=1)
        regions = roi_align(
            feature,
            rois,
            self.pooler_resolution,
            spatial_scale=self.spatial_scale,
            sampling_ratio=2,
            aligned=True,
        )
        regions = self.tower(regions)
        if self.instance_interaction is not None:
            tokens = regions.flatten(2).transpose(1, 2)
            updated = self.instance_interaction(instance_queries, tokens)
            instance_queries = self.instance_feedforward(self.instance_norm(instance_queries + updated))

        embeddings = self.part_embedding(regions) + self.instance_to_part(instance_queries)
        part_queries = self.part_update(embeddings, part_queries)
        part_queries = self.feedforward(self.self_attention(part_queries))
        coordinates, sigmas = self.heads(part_queries)
        return coordinates, sigmas, instance_queries, part_queries


def _tower(dim: int, tower_dim: int, num_layers: int) -> nn.Sequential:
    widths = [dim] + [tower_dim] * (num_layers - 1) + [dim]
    layers = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
