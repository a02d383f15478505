"""Anchored coordinates: keypoints as offsets from where their part's attention lies."""

import torch
from torch import Tensor


def attention_anchors(attention: Tensor) -> Tensor:
    """The expected position under each attention map, in box units.

    Keypoint k of part m is then u_k = sum_p A_m(p) p + (q W_k^T) / ||q|| + b_k with p the center of a location, so
    that the keypoint loss moves the attention itself and the heads learn small offsets only.

    Args:
        attention: (R, M, h, w) in float32, every map summing to one.

    Returns:
        (R, M, 2) x, y; the box's center is 0, its sides are at -0.5 and 0.5.
    """
    height, width = attention.shape[2:]
    x = (torch.arange(width, device=attention.device) + 0.5) / width - 0.5
    y = (torch.arange(height, device=attention.device) + 0.5) / height - 0.5
    # no matrix product: autocast would round it
    return torch.stack([(attention.sum(dim=2) * x).sum(dim=-1), (attention.sum(dim=3) * y).sum(dim=-1)], dim=-1)
