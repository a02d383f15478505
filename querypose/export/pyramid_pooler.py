"""Multi-level RoIAlign without a step that depends on the data, for graphs that are traced once."""

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor
from torchvision.ops import roi_align


class DensePyramidPooler:
    """Computes what Detectron2's `ROIPooler` does (ROIAlignV2), with every box read on every level and one level kept.

    Detectron2 sorts the boxes by level, so that the shapes depend on the boxes. Here they do not, at the price of a
    RoIAlign per level: nothing beside the rest of a box stage, but too much for training.
    """

    def __init__(self, pooler: ROIPooler):
        """pooler: with ROIAlignV2 on each of its levels, whose sizes and scales are taken over."""
        self.output_size = tuple(pooler.output_size)
        self.scales = [level.spatial_scale for level in pooler.level_poolers]
        self.sampling_ratio = pooler.level_poolers[0].sampling_ratio
        self.canonical_box_size = pooler.canonical_box_size
        # a box goes one level up where its size, in units of the canonical size, reaches the next power of two
        levels = range(pooler.min_level + 1, pooler.max_level + 1)
        self.steps = [2.0 ** (level - pooler.canonical_level) for level in levels]

    def __call__(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """
        Args:
            features: feature maps (B, d, H_l, W_l), finest first.
            boxes: (B, N, 4) corners in pixels of the network's input.

        Returns:
            (B * N, d, height, width) of the pooler.
        """
        batch, number, _ = boxes.shape
        image_index = torch.arange(batch, device=boxes.device)[:, None, None].expand(batch, number, 1)
        rois = torch.cat([image_index.to(boxes), boxes], dim=2).flatten(0, 1)
        level = self.levels(rois[:, 1:])[:, None, None, None]
        regions = rois.new_zeros(())
        for index, (feature, scale) in enumerate(zip(features, self.scales, strict=True)):
            pooled = roi_align(feature, rois, self.output_size, scale, self.sampling_ratio, aligned=True)
            regions = torch.where(level == index, pooled, regions)
        return regions

    def levels(self, boxes: Tensor) -> Tensor:
        """boxes (R, 4) in pixels -> (R,) the index of their level, by FPN's rule (its Eq. 1).

        Sizes are compared with the levels' limits, where Detectron2 takes a logarithm, which runtimes round
        differently; limits are lowered by as much as the logarithm's rounding forgives.
        """
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        size = area.sqrt() / self.canonical_box_size + 1e-8
        return sum((size >= step * (1 - 1e-7)).to(torch.int64) for step in self.steps)
