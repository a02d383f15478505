"""Losses in training only: keypoint heatmaps on P2 (end of Section 4.3), and the SPEGM's attention on its keypoints."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AuxiliaryHeatmap(nn.Module):
    """One linear map from P2 to a heatmap per keypoint, with the penalty-reduced focal loss of dense detectors."""

    def __init__(self, dim: int, num_keypoints: int, stride: int):
        super().__init__()
        self.predict = nn.Conv2d(dim, num_keypoints, kernel_size=1)
        self.stride = stride
        nn.init.normal_(self.predict.weight, std=0.01)
        # keypoints are rare: start at probability 0.01
        nn.init.constant_(self.predict.bias, -math.log(99))  # type: ignore[arg-type]

    def forward(self, feature: Tensor, keypoints: Tensor) -> Tensor:
        """P2 (B, d, H, W) and labeled persons (B, P, K, 3) in pixels and visibility -> the loss, a sum."""
        logits = self.predict(feature).float()
        return heatmap_focal_loss(logits, gaussian_heatmaps(keypoints, logits.shape[-2:], self.stride, sigma=1.5))


def gaussian_heatmaps(keypoints: Tensor, size: tuple[int, int], stride: int, sigma: float | Tensor) -> Tensor:
    """keypoints (B, P, K, 3) -> (B, K, H, W) in [0, 1]: at each location the largest Gaussian of any person.

    The location that a labeled keypoint (v > 0) falls into is 1; keypoints outside the map leave no trace. sigma: in
    locations, one for all or broadcast to (B, P, K, 1).
    """
    height, width = size
    locations = (keypoints[..., :2] / stride).floor()
    x = torch.arange(width, device=keypoints.device, dtype=torch.float32)
    y = torch.arange(height, device=keypoints.device, dtype=torch.float32)
    inside = (locations >= 0).all(dim=-1) & (locations[..., 0] < width) & (locations[..., 1] < height)
    labeled = (inside & (keypoints[..., 2] > 0)).float()[..., None]
    row = torch.exp(-((x - locations[..., :1]) ** 2) / (2 * sigma**2)) * labeled  # (B, P, K, W)
    column = torch.exp(-((y - locations[..., 1:]) ** 2) / (2 * sigma**2))  # (B, P, K, H)
    batch, persons, number = keypoints.shape[:3]
    heatmaps = keypoints.new_zeros(batch, number, height, width)
    for person in range(persons):
        heatmaps = torch.maximum(heatmaps, column[:, person, :, :, None] * row[:, person, :, None])
    return heatmaps


def heatmap_focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the focal loss (alpha 2, beta 4) with less penalty near a peak, a target of 1; both (B, K, H, W)."""
    probability = logits.sigmoid()
    positive = (1 - probability) ** 2.0 * -F.logsigmoid(logits)
    negative = (1 - targets) ** 4.0 * probability**2.0 * -F.logsigmoid(-logits)
    return torch.where(targets == 1, positive, negative).sum()


def attention_loss(
    attention: Tensor, targets: Tensor, valid: Tensor, part_of_keypoint: Tensor, sigma: float = 1.0
) -> Tensor:
    """Sum over the valid keypoints of the cross-entropy between a Gaussian at the keypoint and its part's attention.

    Several keypoints of one part make a mixture of Gaussians its target.

    attention: (n, M, h, w), every map summing to one. targets: (n, K, 2) in box units, the box's centre at 0; anything
    where not valid (n, K). part_of_keypoint: (K,). sigma: in locations of the maps.
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
