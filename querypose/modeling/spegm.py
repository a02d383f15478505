"""Spatial Part Embedding Generation Module, SPEGM (Section 3.2, Figure 2c)."""

from detectron2.config import configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

PART_EMBEDDING_REGISTRY = Registry("PART_EMBEDDING")
PART_EMBEDDING_REGISTRY.__doc__ = """
Registry of modules that make part embeddings from the features of a person's region, named by
`MODEL.QUERYPOSE.PART_EMBEDDING`.

A registered class is an `nn.Module` built as `cls(cfg, num_parts)`. Its `forward(regions)` takes the tower's
features (R, d, H, W) and returns the part embeddings (R, M, dp). It may offer `init_weights()`, which is called
after the global initialisation unless the config asks for the authors' one.
"""


@PART_EMBEDDING_REGISTRY.register()
class SPEGM(nn.Module):
    """Local spatial attention: one map of weights per part over the upsampled region, E = Linear(A x region)."""

    @configurable
    def __init__(self, *, dim: int, part_dim: int, num_parts: int):
        """
        Args:
            dim: d, channels of the region's features.
            part_dim: dp, width of a part embedding.
            num_parts: M.
        """
        super().__init__()
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, kernel_size=4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(inplace=True),
        )
        self.attention = nn.Conv2d(dim, num_parts, kernel_size=3, padding=1)
        self.project = nn.Linear(dim, part_dim)

    @classmethod
    def from_config(cls, cfg, num_parts: int):
        config = cfg.MODEL.QUERYPOSE
        return {"dim": config.HIDDEN_DIM, "part_dim": config.PART_DIM, "num_parts": num_parts}

    def init_weights(self) -> None:
        """Nearly equal weight on every place, and a small deconvolution, so that attention starts undecided."""
        nn.init.normal_(self.upsample[0].weight, std=0.001)
        nn.init.normal_(self.attention.weight, std=0.01)
        nn.init.zeros_(self.attention.bias)

    def forward(self, regions: Tensor) -> Tensor:
        """regions (R, d, H, W) -> part embeddings (R, M, dp)."""
        upsampled = self.upsample(regions)
        weights = self.attention_maps(upsampled).flatten(2)
        return self.project(weights @ upsampled.flatten(2).transpose(1, 2))

    def attention_maps(self, upsampled: Tensor) -> Tensor:
        """upsampled regions (R, d, 2H, 2W) -> A (R, M, 2H, 2W), each map summing to one (Figure 5)."""
        maps = self.attention(upsampled)
        return F.softmax(maps.flatten(2), dim=2).view_as(maps)
