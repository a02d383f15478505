"""Auxiliary loss on the SPEGM's attention maps, in training only: a part's attention should lie on its keypoints."""

import torch
from torch import Tensor


def attention_loss(
    attention: Tensor, targets: Tensor, valid: Tensor, part_of_keypoint: Tensor, sigma: float = 1.0
) -> Tensor:
    """Sum over the valid keypoints of the cross-entropy between a Gaussian at the keypoint and its part's attention.

    Not the paper's: there, only the gradient of the coordinates moves the attention (Section 3.2), which needs
    pre-trained features and long schedules before it leaves the middle of the region.

    Args:
        attention: (n, M, h, w), every map summing to one.
        targets: (n, K, 2) in box units, the box's centre at 0; anything where not valid.
        valid: (n, K) which keypoints count.
        part_of_keypoint: (K,) the part of each keypoint. Several of one part make a mixture of Gaussians its target.
        sigma: standard deviation of the Gaussians in locations of the maps.
    """
    height, width = attention.shape[2:]
    log_attention = torch.log(attention.float() + 1e-8)[:, part_of_keypoint]  # (n, K, h, w)
    targets = torch.where(valid[..., None], targets, 0.0)
    column = _gaussian(targets[..., 1], height, sigma)
    row = _gaussian(targets[..., 0], width, sigma)
    # no matrix product: autocast would round it
    cross_entropy = -(column[..., None] * row[..., None, :] * log_attention).sum(dim=(2, 3))  # (n, K)
    return torch.where(valid, cross_entropy, 0.0).sum()


def _gaussian(position: Tensor, locations: int, sigma: float) -> Tensor:
    """position (n, K) in box units -> (n, K, locations), weights that sum to one."""
    centers = (torch.arange(locations, device=position.device) + 0.5) / locations - 0.5
    distance = (centers - position[..., None].float()) * locations
    return torch.softmax(-(distance**2) / (2 * sigma**2), dim=-1)
