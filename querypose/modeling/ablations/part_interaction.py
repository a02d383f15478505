"""Part embeddings for which the part queries read the region themselves (the PQ rows of Table 1)."""

from detectron2.config import configurable
from torch import Tensor, nn

from querypose.modeling.ablations.interaction_variants import DynamicSpatialMLP, MultiHeadSelfAttention
from querypose.modeling.query_interaction import DynamicChannelMLP
from querypose.modeling.spegm import PART_EMBEDDING_REGISTRY


class PartInteraction(nn.Module):
    """What an interaction adds to the part queries is their part embedding; one interaction for all parts.

    There are no attention maps, so that `makes_attention` is False.
    """

    makes_attention = False
    interaction_class = None  # a class of QUERY_INTERACTION_REGISTRY, given by the subclass

    @configurable
    def __init__(self, *, interaction: nn.Module):
        """interaction: as QUERY_INTERACTION_REGISTRY states, for queries of width dp."""
        super().__init__()
        self.interaction = interaction

    @classmethod
    def from_config(cls, cfg, num_parts: int):
        config = cfg.MODEL.QUERYPOSE
        num_tokens = cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION**2
        return {"interaction": cls.interaction_class(cfg, num_tokens, query_dim=config.PART_DIM)}

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
