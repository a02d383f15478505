"""The keypoint losses that a config can choose: residual log-likelihood (Eq. 4) and what it is compared with."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from querypose.modeling.losses.flow import RealNVP
from querypose.modeling.losses.rle import residual_log_likelihood_loss

KEYPOINT_LOSS_REGISTRY = Registry("KEYPOINT_LOSS")
KEYPOINT_LOSS_REGISTRY.__doc__ = """
Registry of keypoint losses, named by `MODEL.QUERYPOSE.KEYPOINT_LOSS`.

A registered class is an `nn.Module` built as `cls(cfg)`. Its `forward(coordinates, sigmas, targets, valid)` takes
predictions (n, K, 2) and (n, K, 2), targets (n, K, 2), all in box units, and valid (n, K), which keypoints count;
targets are anything where not valid. It returns the sum over the valid keypoints. The class attribute `uses_sigma` says
whether the heads predict sigma; if not, every keypoint has the confidence 1 and a person's score is its class
probability.
"""


@KEYPOINT_LOSS_REGISTRY.register()
class RLE(nn.Module):
    """Residual log-likelihood, with the flow as the paper has it (Eq. 4)."""

    uses_sigma = True

    @configurable
    def __init__(self, *, flow: nn.Module | None):
        """flow: has `log_prob(errors (m, 2)) -> (m,)`; None leaves its terms out."""
        super().__init__()
        self.flow = flow

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        flow = RealNVP()
        if cfg.MODEL.QUERYPOSE.INITIALIZATION == "deliberate":
            flow.init_weights()
        return {"flow": flow}

    def forward(self, coordinates: Tensor, sigmas: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """As KEYPOINT_LOSS_REGISTRY states."""
        return residual_log_likelihood_loss(coordinates, sigmas, targets, valid, self.flow)


@KEYPOINT_LOSS_REGISTRY.register()
class RLEWithoutFlow(RLE):
    """Residual log-likelihood less the flow's terms: log(sigma sqrt(2 pi)) + |g - u| / (sqrt(2) sigma)."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"flow": None}


@KEYPOINT_LOSS_REGISTRY.register()
class SmoothL1(nn.Module):
    """(g - u)^2 / (2 beta) for errors below beta = 0.05 box units, |g - u| - beta / 2 beyond."""

    uses_sigma = False

    @configurable
    def __init__(self, *, beta: float):
        """beta: box units below which an error counts squared; 0 makes it L1."""
        super().__init__()
        self.beta = beta

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"beta": 0.05}

    def forward(self, coordinates: Tensor, sigmas: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """As KEYPOINT_LOSS_REGISTRY states."""
        return smooth_l1_loss(coordinates, targets, valid, self.beta)


@KEYPOINT_LOSS_REGISTRY.register()
class L1(SmoothL1):
    """|g - u| in box units."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"beta": 0.0}


def smooth_l1_loss(coordinates: Tensor, targets: Tensor, valid: Tensor, beta: float) -> Tensor:
    """Sum of the smooth L1 loss (beta 0: of L1) over x and y of the valid keypoints.

    Args:
        coordinates: (n, K, 2) predicted, in box units.
        targets: (n, K, 2) in the same units; anything where not valid, NaN included.
        valid: (n, K) which keypoints count.
        beta: box units below which an error counts squared.
    """
    valid = valid[..., None].expand_as(coordinates)
    targets = torch.where(valid, targets.to(coordinates), coordinates.detach())
    return F.smooth_l1_loss(coordinates.float(), targets.float(), reduction="sum", beta=beta)
