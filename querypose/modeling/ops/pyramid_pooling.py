"""RoIAlign over a pyramid: boxes that it can read at, and for CPU and GPU the way that is fast there."""

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor

from querypose.modeling.ops.roi_align import roi_align as roi_align  # the ONNX export replaces it

_FAR = 1e6  # pixels; no image reaches as far


def poolable(boxes: Tensor) -> Tensor:
    """The boxes (.., 4), in pixels, with NaN as 0 and nothing farther than a million pixels.

    torchvision's RoIAlign on a CPU reads outside of its memory at NaN: a diverged box would end the process before the
    loss reports it.
    """
    return torch.nan_to_num(boxes, nan=0.0).clamp(-_FAR, _FAR)


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
