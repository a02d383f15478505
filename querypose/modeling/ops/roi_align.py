"""RoIAlign: torchvision's, and on a CPU the same sums ten times faster."""

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F


def roi_align(feature: Tensor, rois: Tensor, size: tuple[int, int], scale: float, sampling_ratio: int) -> Tensor:
    """torchvision's `roi_align` with `aligned=True`, the same numbers but for rounding -> (R, d, height, width).

    torchvision's CPU kernels read, and in the backward pass write, one channel at a time at scattered locations, the
    latter on one core. On a CPU every location of the RoI features is computed here as a weighted sum of the map's
    locations, with all their channels side by side, by `embedding_bag`.

    feature: (B, d, H, W); `channels_last` saves a copy, and is then the layout of the regions too. rois: (R, 5), index
    of the image, then finite corners in pixels of the network's input; without a gradient. sampling_ratio: at least 1.
    """
    if not feature.is_cpu:
        return torchvision.ops.roi_align(feature, rois, size, scale, sampling_ratio, aligned=True)
    batch, channels, height, width = feature.shape
    rois = rois.detach()
    image = rois[:, 0].long()
    x0, y0, x1, y1 = (rois[:, 1:] * scale - 0.5).unbind(dim=1)
    columns, column_weights = _points(x0, x1, size[1], sampling_ratio, width)
    rows, row_weights = _points(y0, y1, size[0], sampling_ratio, height)
    # of all pairs of a row and a column: (R, locations in y, locations in x, rows, columns)
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :] / sampling_ratio**2
    indices = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    indices = indices + (image * (height * width)).view(-1, 1, 1, 1, 1)
    number = 4 * sampling_ratio**2
    table = feature.permute(0, 2, 3, 1).reshape(-1, channels)
    regions = F.embedding_bag(
        indices.view(-1, number), table, mode="sum", per_sample_weights=weights.view(-1, number).to(table)
    )
    regions = regions.view(-1, *size, channels).permute(0, 3, 1, 2)
    return regions if feature.is_contiguous(memory_format=torch.channels_last) else regions.contiguous()


def _points(low: Tensor, high: Tensor, locations: int, sampling_ratio: int, limit: int) -> tuple[Tensor, Tensor]:
    """The positions along one axis that each location is made of, and their weights (R, locations, 2 * ratio).

    Every point lies between two positions. One farther outside of the map than a position counts as 0.
    """
    step = ((high - low) / locations)[:, None, None]
    location = torch.arange(locations, dtype=low.dtype)[:, None]
    point = (torch.arange(sampling_ratio, dtype=low.dtype) + 0.5) / sampling_ratio
    position = low[:, None, None] + location * step + point * step  # (R, locations, ratio)
    inside = (position >= -1) & (position <= limit)
    position = position.clamp(min=0, max=limit - 1)
    before = position.floor()
    share = position - before
    after = (before + 1).clamp(max=limit - 1)
    weights = torch.stack([(1 - share) * inside, share * inside], dim=-1)
    return torch.stack([before, after], dim=-1).long().flatten(2), weights.flatten(2)
