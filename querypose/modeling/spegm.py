"""Spatial Part Embedding Generation Module, SPEGM (Section 3.2, Figure 2c)."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

PART_EMBEDDING_REGISTRY = Registry("PART_EMBEDDING")
PART_EMBEDDING_REGISTRY.__doc__ = """
Registry of modules that make part embeddings from the features of a person's region, named by
`MODEL.QUERYPOSE.PART_EMBEDDING`.

A registered class is an `nn.Module` built as `cls(cfg, num_parts)`. Its `forward(regions, queries)` takes the tower's
features (R, d, H, W) and the part queries that the stage starts from (R, M, dp) and returns the part embeddings
(R, M, dp) and the attention over the region that they were summed up with, (R, M, H', W') in float32, every map
summing to one, or None where there is none; its class attribute `makes_attention` says which. It may offer
`init_weights()`, which is called after the global initialization unless the config asks for the authors' one.
"""


@PART_EMBEDDING_REGISTRY.register()
class SPEGM(nn.Module):
    """Local spatial attention: one map of weights per part over the upsampled region, E = Linear(A x region)."""

    makes_attention = True
    extra_dim = 0  # what a subclass adds to the channels that the attention weighs

    @configurable
    def __init__(self, *, dim: int, part_dim: int, num_parts: int):
        """dim: d, channels of the region's features; part_dim: dp; num_parts: M."""
        super().__init__()
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, kernel_size=4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(inplace=True),
        )
        self.attention = nn.Conv2d(dim, num_parts, kernel_size=3, padding=1)
        self.project = nn.Linear(dim + self.extra_dim, part_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode, num_parts: int) -> dict[str, Any]:
        config = cfg.MODEL.QUERYPOSE
        return {"dim": config.HIDDEN_DIM, "part_dim": config.PART_DIM, "num_parts": num_parts}

    def init_weights(self) -> None:
        """Nearly equal weight on every location, and a small deconvolution, so that attention starts undecided."""
        nn.init.normal_(self.upsample[0].weight, std=0.001)  # type: ignore[arg-type]
        nn.init.normal_(self.attention.weight, std=0.01)
        nn.init.zeros_(self.attention.bias)  # type: ignore[arg-type]

    def forward(self, regions: Tensor, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """regions (R, d, H, W) -> embeddings (R, M, dp) and A (R, M, 2H, 2W), whose maps sum to one (Figure 5).

        The part queries have no influence on either.
        """
        upsampled = self.upsample(regions)
        maps = self.attention(upsampled)
        attention = F.softmax(maps.flatten(2).float(), dim=2)
        tokens = self.tokens(upsampled)
        return self.project(attention.to(tokens) @ tokens), attention.view_as(maps)

    def tokens(self, upsampled: Tensor) -> Tensor:
        """upsampled regions (R, d, 2H, 2W) -> what the attention sums up, (R, 4HW, d + extra_dim)."""
        return upsampled.flatten(2).transpose(1, 2)


@PART_EMBEDDING_REGISTRY.register()
class CoordinateSPEGM(SPEGM):
    """An SPEGM that also sums up the locations' coordinates; not the paper's, see docs/BEYOND_THE_PAPER.md."""

    extra_dim = 2

    def tokens(self, upsampled: Tensor) -> Tensor:
        """The features, then x and y of each location in units of half the region, its center at 0."""
        rows, _, height, width = upsampled.shape
        x = (torch.arange(width, device=upsampled.device, dtype=upsampled.dtype) + 0.5) * (2 / width) - 1
        y = (torch.arange(height, device=upsampled.device, dtype=upsampled.dtype) + 0.5) * (2 / height) - 1
        coordinates = torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)
        return torch.cat([super().tokens(upsampled), coordinates.expand(rows, -1, -1)], dim=2)
