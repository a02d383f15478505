"""RoIAlign over a pyramid: on CPU and GPU the way that is fast there, and boxes that it can read at."""

import torch
import torchvision
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor
from torch.nn import functional as F


def poolable(boxes: Tensor) -> Tensor:
    """The boxes (.., 4), in pixels, with NaN as 0 and nothing farther than a million pixels.

    At NaN, torchvision's RoIAlign on a CPU reads outside of its memory, so a diverged box would end the process.
    """
    return torch.nan_to_num(boxes, nan=0.0).clamp(-1e6, 1e6)


def pool_regions(feature: Tensor, boxes: Tensor, image_index: Tensor, size: int, scale: float) -> Tensor:
    """RoIAlign of boxes (R, 4), in pixels, of images (R,) on feature (B, d, H, W) -> (R, d, size, size)."""
    rois = torch.cat([image_index[:, None].to(boxes), poolable(boxes)], dim=1)
    return roi_align(feature, rois, (size, size), scale, sampling_ratio=2)


def pool_every_level(pooler: ROIPooler, features: list[Tensor], boxes: Tensor) -> Tensor:
    """What `pooler` (ROIAlignV2) computes of boxes (B, N, 4) in pixels: (B * N, d, height, width).

    The pooler finds out how many boxes each level has, for which the host waits. Here every box is pooled from every
    level and its own level's result kept: four times the work of a small part of the step, and no waiting.
    """
    rois, level = _rois_and_levels(pooler, boxes)
    regions = features[0].new_zeros(())
    for index, (feature, align) in enumerate(zip(features, pooler.level_poolers, strict=True)):
        pooled = roi_align(feature, rois.to(feature), align.output_size, align.spatial_scale, align.sampling_ratio)
        regions = torch.where((level == index).view(-1, 1, 1, 1), pooled, regions)
    return regions


def pool_own_level(pooler: ROIPooler, features: list[Tensor], boxes: Tensor) -> Tensor:
    """As `pool_every_level`, each box from its own level alone, which a GPU's host waits for."""
    rois, level = _rois_and_levels(pooler, boxes)
    parts, order = [], []
    for index, (feature, align) in enumerate(zip(features, pooler.level_poolers, strict=True)):
        mine = torch.where(level == index)[0]
        # in training each map takes part: distributed processes must have the same parameters with a gradient
        if len(mine) or feature.requires_grad:
            own = rois[mine].to(feature)
            parts.append(roi_align(feature, own, align.output_size, align.spatial_scale, align.sampling_ratio))
            order.append(mine)
    return torch.cat(parts)[torch.cat(order).argsort()] if len(parts) > 1 else parts[0]


def _rois_and_levels(pooler: ROIPooler, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(B * N, 5) index of the image and corners in pixels, (B * N,) index of the level."""
    batch, number = boxes.shape[:2]
    flat = poolable(boxes).reshape(-1, 4).float()
    image = torch.arange(batch, device=boxes.device)[:, None].expand(batch, number).flatten()
    rois = torch.cat([image[:, None].to(flat), flat], dim=1)

    # FPN's equation 1: one level up wherever the size, in units of the canonical size, reaches a power of two.
    # Detectron2 takes a logarithm, which runtimes round differently; the limits are lower by what its epsilon forgives.
    # A diverged box, of size NaN, stays on the finest level: the loss reports it.
    size = (flat[:, 2:] - flat[:, :2]).prod(dim=1).sqrt() / pooler.canonical_box_size + 1e-8
    limits = [2.0 ** (level - pooler.canonical_level) for level in range(pooler.min_level + 1, pooler.max_level + 1)]
    level = sum(((size >= limit * (1 - 1e-7)).long() for limit in limits), torch.zeros_like(image))
    return rois, level


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
    weights = weights.view(-1, number).to(table)
    regions = F.embedding_bag(indices.view(-1, number), table, mode="sum", per_sample_weights=weights)
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
