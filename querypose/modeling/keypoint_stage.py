"""One stage of the keypoint decoder: tower, SPEGM, SIM, self-attention over the parts, heads (Section 3.1, Eq. 2)."""

import itertools
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from querypose.modeling.losses.keypoint_loss import KEYPOINT_LOSS_REGISTRY
from querypose.modeling.part_heads import KeypointHeads, PartLinear
from querypose.modeling.query_interaction import QUERY_INTERACTION_REGISTRY
from querypose.modeling.selective_iteration import PART_UPDATE_REGISTRY
from querypose.modeling.spegm import PART_EMBEDDING_REGISTRY
from querypose.modeling.transformer import FeedForward, SelfAttention

KEYPOINT_STAGE_REGISTRY = Registry("KEYPOINT_STAGE")
KEYPOINT_STAGE_REGISTRY.__doc__ = """
Registry of keypoint stages, named by `MODEL.QUERYPOSE.KEYPOINT_STAGE`.

A registered class is an `nn.Module` built as `cls(cfg, part_of_keypoint)`, with the index of the part of each of the K
keypoints. Its `forward` takes and returns what `KeypointStage.forward` does. Class attributes: `has_parts`, without
which None stands for the part queries; `variants`, the values of `MODEL.QUERYPOSE.VARIANT` in which every parameter of
the stage has a use. A child module's `init_weights()` is called as a part embedding's is.
"""

StageOutput = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]  # see `KeypointStage.forward`


@KEYPOINT_STAGE_REGISTRY.register()
class KeypointStage(nn.Module):
    """Updates the part queries of R persons with the features of their boxes and reads the keypoints from them."""

    has_parts = True
    variants = ("full", "branched", "light")

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
        with_sigma: bool = True,
        anchored: bool = False,
    ):
        """
        Args:
            part_embedding, part_update, instance_interaction: as their registries state; no interaction in light.
            part_of_keypoint: for each of the K keypoints the index of its part.
            dim: d; part_dim: dp; tower_dim: width inside the tower.
            anchored: whether coordinates are offsets from `attention_anchors`; not the paper's.
        """
        super().__init__()
        num_parts = max(part_of_keypoint) + 1
        self.tower = build_tower(dim, tower_dim, num_tower_layers)
        self.instance_interaction = instance_interaction
        if instance_interaction is not None:
            self.instance_norm = nn.LayerNorm(dim)
            self.instance_feedforward = FeedForward(dim, feedforward_dim)
        self.part_embedding = part_embedding
        self.instance_to_part = PartLinear(num_parts, dim, part_dim)
        self.part_update = part_update
        self.self_attention = SelfAttention(part_dim, num_heads)
        self.feedforward = FeedForward(part_dim, feedforward_dim)
        # offsets from the anchors start near zero; positions in the box that do learn much more slowly
        self.heads = KeypointHeads(part_of_keypoint, part_dim, with_sigma, gain=0.01 if anchored else 1.0)
        self.anchored = anchored

    @classmethod
    def from_config(cls, cfg: CfgNode, part_of_keypoint: list[int]) -> dict[str, Any]:
        config = cfg.MODEL.QUERYPOSE
        return {
            "part_embedding": PART_EMBEDDING_REGISTRY.get(config.PART_EMBEDDING)(cfg, max(part_of_keypoint) + 1),
            "part_update": PART_UPDATE_REGISTRY.get(config.PART_UPDATE)(cfg),
            "instance_interaction": None if config.VARIANT == "light" else build_instance_interaction(cfg),
            "part_of_keypoint": part_of_keypoint,
            "dim": config.HIDDEN_DIM,
            "part_dim": config.PART_DIM,
            "tower_dim": config.TOWER_DIM,
            "num_tower_layers": config.NUM_TOWER_LAYERS,
            "num_heads": config.NUM_HEADS,
            "feedforward_dim": config.FEEDFORWARD_DIM,
            "with_sigma": KEYPOINT_LOSS_REGISTRY.get(config.KEYPOINT_LOSS).uses_sigma,
            "anchored": config.ANCHORED_COORDINATES,
        }

    def forward(self, regions: Tensor, instance_queries: Tensor, part_queries: Tensor) -> StageOutput:
        """
        Args:
            regions: (R, d, 14, 14) RoI features of the stage's boxes.
            instance_queries: (R, d); part_queries: (R, M, dp).

        Returns:
            coordinates (R, K, 2) and sigmas (R, K, 2) in box units; instance queries (R, d), and the part queries
            (R, M, dp) that the next stage starts from; the attention maps of the part embedding or None.
        """
        regions = self.tower(regions)
        if self.instance_interaction is not None:
            tokens = regions.flatten(2).transpose(1, 2)
            updated = self.instance_interaction(instance_queries[:, None], tokens)[:, 0]
            instance_queries = self.instance_feedforward(self.instance_norm(instance_queries + updated))

        embeddings, attention = self.part_embedding(regions, part_queries)
        embeddings = embeddings + self.instance_to_part(instance_queries)
        updated = self.part_update(embeddings, part_queries)
        updated = self.feedforward(self.self_attention(updated))
        coordinates, sigmas = self.heads(updated)
        if self.anchored:
            coordinates = coordinates + attention_anchors(attention)[:, self.heads.part_of_keypoint]
        if getattr(self.part_update, "iterates", True):
            part_queries = updated
        return coordinates, sigmas, instance_queries, part_queries, attention


def build_instance_interaction(cfg: CfgNode) -> nn.Module:
    config, num_tokens = cfg.MODEL.QUERYPOSE, cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION**2
    return QUERY_INTERACTION_REGISTRY.get(config.KEYPOINT_INTERACTION)(cfg, num_tokens, config.HIDDEN_DIM)


def build_tower(dim: int, tower_dim: int, num_layers: int) -> nn.Sequential:
    """3x3 convolutions from dim over tower_dim back to dim, each with a ReLU."""
    widths = [dim] + [tower_dim] * (num_layers - 1) + [dim]
    layers = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def attention_anchors(attention: Tensor) -> Tensor:
    """attention (R, M, h, w) -> expected positions (R, M, 2), x and y in box units, -0.5 to 0.5.

    Keypoint k of part m is then u_k = sum_p A_m(p) p + (q W_k^T) / ||q|| + b_k with p the center of a location.
    """
    height, width = attention.shape[2:]
    x = (torch.arange(width, device=attention.device) + 0.5) / width - 0.5
    y = (torch.arange(height, device=attention.device) + 0.5) / height - 0.5
    # no matrix product: autocast would round it
    return torch.stack([(attention.sum(dim=2) * x).sum(dim=-1), (attention.sum(dim=3) * y).sum(dim=-1)], dim=-1)
