"""The keypoint losses that a config can choose: residual log-likelihood (Eq. 4) and what it is compared with."""

import torch
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from querypose.modeling.losses.rle import residual_log_likelihood_loss

KEYPOINT_LOSS_REGISTRY = Registry("KEYPOINT_LOSS")
KEYPOINT_LOSS_REGISTRY.__doc__ = """
Registry of keypoint losses, named by `MODEL.QUERYPOSE.KEYPOINT_LOSS`.

A registered class is built as `cls(cfg)` and called as `loss(coordinates, sigmas, targets, valid, flow)` with the
arguments of `residual_log_likelihood_loss`; it returns the sum over the valid keypoints. Class attributes
 say what it needs: without `uses_sigma` the heads predict no sigma, every keypoint has the confidence 1 and
a person's score is its class probability; without `uses_flow` there is no flow, and `flow` is None.
"""


@KEYPOINT_LOSS_REGISTRY.register()
class RLE:
    """Residual log-likelihood with the flow: the paper's (Eq. 4)."""

    uses_sigma = True
    uses_flow = True

    def __init__(self, cfg):
        pass

    def __call__(self, coordinates, sigmas, targets, valid, flow: nn.Module) -> Tensor:
        return residual_log_likelihood_loss(coordinates, sigmas, targets, valid, flow)


@KEYPOINT_LOSS_REGISTRY.register()
class RLEWithoutFlow:
    """Residual log-likelihood less the flow's terms: log(sigma sqrt(2 pi)) + |g - u| / (sqrt(2) sigma)."""

    uses_sigma = True
    uses_flow = False

    def __init__(self, cfg):
        pass

    def __call__(self, coordinates, sigmas, targets, valid, flow: None) -> Tensor:
        return residual_log_likelihood_loss(coordinates, sigmas, targets, valid, None)


@KEYPOINT_LOSS_REGISTRY.register()
class L1:
    """|g - u| in box units."""

    uses_sigma = False
    uses_flow = False

    def __init__(self, cfg):
        pass

    def __call__(self, coordinates, sigmas, targets, valid, flow: None) -> Tensor:
        return smooth_l1_loss(coordinates, targets, valid, beta=0.0)


@KEYPOINT_LOSS_REGISTRY.register()
class SmoothL1(L1):
    """(g - u)^2 / (2 beta) for errors below beta = 0.05 box units, |g - u| - beta / 2 beyond."""

    beta = 0.05

    def __call__(self, coordinates, sigmas, targets, valid, flow: None) -> Tensor:
        return smooth_l1_loss(coordinates, targets, valid, self.beta)


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
