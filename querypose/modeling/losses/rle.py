"""Residual log-likelihood estimation, the keypoint loss (Section 3.4, Eq. 4)."""

import math

import torch
from torch import Tensor, nn


def residual_log_likelihood_loss(
    coordinates: Tensor, sigmas: Tensor, targets: Tensor, valid: Tensor, flow: nn.Module | None
) -> Tensor:
    """Sum of -log P(target) over the valid keypoints.

    Args:
        coordinates: (n, K, 2) predicted, in box units.
        sigmas: (n, K, 2) their spread, in (0, 1).
        targets: (n, K, 2) in the same units; anything where not valid, NaN included.
        valid: (n, K) which keypoints count.
        flow: has `log_prob(errors (m, 2)) -> (m,)`; None leaves its terms, log sigma - log phi(e), out.

    With e = (u - g) / sigma, each of the two coordinates gives log sigma - log phi(e)
    + log(sigma sqrt(2 pi)) + |g - u| / (sqrt(2) sigma). phi is the flow's density of the pair: it counts once for x
    and once for y.
    """
    valid = valid[..., None].expand_as(coordinates)
    # what does not count is replaced before the flow: masking its infinities afterwards would make 0 * inf = NaN
    difference = torch.where(valid, coordinates - targets, 0.0).float()
    sigmas = torch.where(valid, sigmas.float(), 1.0).clamp(min=1e-9)

    loss = torch.log(sigmas * math.sqrt(2 * math.pi)) + difference.abs() / (math.sqrt(2) * sigmas + 1e-9)
    if flow is not None:
        log_density = flow.log_prob((difference / sigmas).flatten(0, 1)).view(difference.shape[:2])[..., None]
        loss = torch.log(sigmas) - log_density + loss
    return torch.where(valid, loss, 0.0).sum()


def keypoints_in_box_units(keypoints: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Ground-truth keypoints in units of the predicted boxes, and which of them count.

    Args:
        keypoints: (n, K, 3) x, y in pixels and visibility.
        boxes: (n, 4) corners in pixels, detached.

    Returns:
        targets (n, K, 2), the box's centre at 0 and its sides at -0.5 and 0.5; valid (n, K): labeled (v > 0) and
        inside the box. A box without area holds none.
    """
    origin, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    targets = (keypoints[..., :2] - origin) / size.clamp(min=1e-3) - 0.5
    inside = (targets.abs() <= 0.5).all(dim=-1) & (size > 1e-3).all(dim=-1)
    return targets, inside & (keypoints[..., 2] > 0)


def keypoints_in_pixels(coordinates: Tensor, boxes: Tensor) -> Tensor:
    """coordinates (n, K, 2) in units of boxes (n, 4) -> (n, K, 2) in pixels: x = (u + 0.5) w + x0."""
    origin, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    return (coordinates + 0.5) * size + origin
