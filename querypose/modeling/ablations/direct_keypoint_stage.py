"""Keypoint stages without part queries: the baseline of Table 2b and the IQ rows of Table 1."""

from detectron2.config import configurable
from torch import Tensor, nn

from querypose.modeling.keypoint_stage import KEYPOINT_STAGE_REGISTRY, build_tower
from querypose.modeling.losses.keypoint_loss import KEYPOINT_LOSS_REGISTRY
from querypose.modeling.part_heads import KeypointHeads
from querypose.modeling.query_interaction import build_query_interaction
from querypose.modeling.transformer import FeedForward


@KEYPOINT_STAGE_REGISTRY.register()
class PooledKeypointStage(nn.Module):
    """The baseline (Section 4.2, Table 2b): tower, global average pooling, heads; no query takes part."""

    has_parts = False
    variants = ("light",)

    @configurable
    def __init__(
        self,
        *,
        num_keypoints: int,
        dim: int,
        tower_dim: int,
        num_tower_layers: int,
        with_sigma: bool = True,
    ):
        """
        Args:
            num_keypoints: K.
            dim, tower_dim, num_tower_layers: as of `KeypointStage`.
            with_sigma: as of `KeypointHeads`.
        """
        super().__init__()
        self.tower = build_tower(dim, tower_dim, num_tower_layers)
        self.heads = KeypointHeads([0] * num_keypoints, dim, with_sigma)

    @classmethod
    def from_config(cls, cfg, part_of_keypoint: list[int]):
        config = cfg.MODEL.QUERYPOSE
        return {
            "num_keypoints": len(part_of_keypoint),
            "dim": config.HIDDEN_DIM,
            "tower_dim": config.TOWER_DIM,
            "num_tower_layers": config.NUM_TOWER_LAYERS,
            "with_sigma": KEYPOINT_LOSS_REGISTRY.get(config.KEYPOINT_LOSS).uses_sigma,
        }

    def forward(
        self, regions: Tensor, instance_queries: Tensor, part_queries: None
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """As KEYPOINT_STAGE_REGISTRY states; the instance queries (R, d) go out as they come in."""
        coordinates, sigmas = self.heads(self.tower(regions).mean(dim=(2, 3))[:, None])
        return coordinates, sigmas, instance_queries, None, None


@KEYPOINT_STAGE_REGISTRY.register()
class InstanceKeypointStage(PooledKeypointStage):
    """The instance query reads the tower's features and holds all keypoints (the IQ rows of Table 1)."""

    variants = ("full", "branched")

    @configurable
    def __init__(
        self,
        *,
        instance_interaction: nn.Module,
        dim: int,
        feedforward_dim: int,
        dropout: float = 0.0,
        **kwargs,
    ):
        """
        Args:
            instance_interaction: as QUERY_INTERACTION_REGISTRY states.
            feedforward_dim, dropout: of the feed-forward block.
            dim and kwargs: as of `PooledKeypointStage`.
        """
        super().__init__(dim=dim, **kwargs)
        self.instance_interaction = instance_interaction
        self.instance_norm = nn.LayerNorm(dim)
        self.instance_feedforward = FeedForward(dim, feedforward_dim, dropout)

    @classmethod
    def from_config(cls, cfg, part_of_keypoint: list[int]):
        config = cfg.MODEL.QUERYPOSE
        num_tokens = cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION**2
        return {
            **super().from_config(cfg, part_of_keypoint),
            "instance_interaction": build_query_interaction(cfg, config.KEYPOINT_INTERACTION, num_tokens),
            "feedforward_dim": config.FEEDFORWARD_DIM,
            "dropout": config.DROPOUT,
        }

    def forward(
        self, regions: Tensor, instance_queries: Tensor, part_queries: None
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """As KEYPOINT_STAGE_REGISTRY states; the instance queries (R, d) go out updated."""
        tokens = self.tower(regions).flatten(2).transpose(1, 2)
        updated = self.instance_interaction(instance_queries, tokens)
        instance_queries = self.instance_feedforward(self.instance_norm(instance_queries + updated))
        coordinates, sigmas = self.heads(instance_queries[:, None])
        return coordinates, sigmas, instance_queries, None, None
