"""Beyond the paper: training aids for little data, all off by default (docs/BEYOND_THE_PAPER.md)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from querypose.modeling.decoder import corners_in_pixels
from querypose.modeling.losses.auxiliary import gaussian_heatmaps, heatmap_focal_loss
from querypose.modeling.losses.matcher import Match, Targets


def ground_truth_regions(match: Match, targets: Targets, copies: int, jitter: float) -> tuple[Match, Tensor]:
    """For each matched query, `copies` boxes of its person, each corner moved by U(-jitter, jitter) of the side.

    A batch without a person gives one row without a labeled keypoint, so that every parameter takes part in the step.

    Returns:
        R rows and their persons; the boxes (R, 4) that every keypoint stage reads, corners in pixels.
    """
    if not len(match.rows):
        rows = match.rows.new_zeros(1)
        return Match(rows, rows), targets.boxes.flatten(0, 1)[rows]
    rows, persons = match.rows.repeat(copies), match.persons.repeat(copies)
    boxes = targets.boxes.flatten(0, 1)[persons]
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return Match(rows, persons), boxes + (2 * torch.rand_like(boxes) - 1) * jitter * size


class OneToManyProposals(nn.Module):
    """Learnable boxes and N' instance queries that go through the box stages by themselves, in training only.

    Hybrid matching (arXiv 2207.13080) for boxes alone: each person is matched to `repeats` of these queries.
    """

    def __init__(self, num_queries: int, dim: int, repeats: int = 4):
        super().__init__()
        self.boxes = nn.Embedding(num_queries, 4)
        self.queries = nn.Embedding(num_queries, dim)
        self.repeats = repeats
        # a grid of boxes of a third of the image, which persons of any position have some overlap with
        columns, index = round(num_queries**0.5), torch.arange(num_queries)
        rows = math.ceil(num_queries / columns)
        with torch.no_grad():
            self.boxes.weight[:, 0] = (index % columns + 0.5) / columns
            self.boxes.weight[:, 1] = (index // columns + 0.5) / rows
            self.boxes.weight[:, 2:] = 1 / 3

    def forward(self, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """(width, height) (B, 2) in pixels -> boxes (B, N', 4), corners in pixels, and queries (B, N', d)."""
        boxes = corners_in_pixels(self.boxes.weight, image_sizes)
        return boxes, self.queries.weight.expand(len(image_sizes), -1, -1)

    def targets(self, targets: Targets) -> Targets:
        """The ground truth with each person repeated, which leaves the padding behind the persons."""
        boxes = targets.boxes.repeat_interleave(self.repeats, dim=1)
        return Targets(boxes, targets.keypoints, [count * self.repeats for count in targets.counts], targets.box_scale)


@dataclass
class CenterMaps:
    """Dense predictions at the stride of the finest feature map, in float32 and in units of the stride."""

    center: Tensor  # (B, 1, H, W) logit of a person's center
    size: Tensor  # (B, 2, H, W) height and width of the person's box
    offset: Tensor  # (B, 2, H, W) y and x of the center from the location's corner
    features: Tensor  # (B, C, H, W) read at the peaks


class ImageQueries(nn.Module):
    """The N highest local maxima (3x3) of the center map; each gives a first box and an addition to a query."""

    @configurable
    def __init__(self, *, feature_dim: int, dim: int, stride: int, predict_maps: bool):
        """feature_dim: C; dim: d; stride: of the maps; predict_maps: here, from the features, not by the backbone."""
        super().__init__()
        self.stride = stride
        self.project = nn.Linear(feature_dim + 2, dim)
        nn.init.normal_(self.project.weight, std=0.01)
        nn.init.zeros_(self.project.bias)
        self.head = None
        if predict_maps:
            self.head = nn.Sequential(
                nn.Conv2d(feature_dim, feature_dim, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.Conv2d(feature_dim, 5, kernel_size=1),
            )
            nn.init.normal_(self.head[-1].weight, std=0.01)  # type: ignore[arg-type]
            # centers are rare: start at probability 0.01; persons of 8 strides, in the middle of a location
            self.head[-1].bias.data = torch.tensor([-math.log(99), 8.0, 8.0, 0.5, 0.5])

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: nn.Module, stride: int) -> dict[str, Any]:
        dim = cfg.MODEL.QUERYPOSE.HIDDEN_DIM
        own = getattr(backbone, "peak_channels", None)  # a backbone with center maps of its own
        return {"feature_dim": own or dim, "dim": dim, "stride": stride, "predict_maps": own is None}

    def maps(self, features: dict[str, Tensor], finest: str) -> CenterMaps:
        """The backbone's maps "center", "size", "offset" and "peak_features", or predictions from its map `finest`."""
        if self.head is None:
            names = ("center", "size", "offset", "peak_features")
            return CenterMaps(*(features[name].float() for name in names))
        feature = features[finest]
        hidden = self.head[:-1](feature)
        # rounded to bfloat16, neighbors would often be equal, and all of them peaks
        with torch.autocast(feature.device.type, enabled=False):
            center, size, offset = self.head[-1](hidden.float()).split([1, 2, 2], dim=1)
        return CenterMaps(center, size, offset, feature.float())

    def forward(self, maps: CenterMaps, queries: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            queries: (N, d) learnable instance queries; the peak with the n-th highest score adds to the n-th.
            image_sizes: (B, 2) width and height in pixels without padding.

        Returns:
            boxes (B, N, 4), corners in pixels, inside of the image and detached; queries (B, N, d).
        """
        scores, index = self.peaks(maps.center.detach(), queries.shape[0], image_sizes)
        boxes = self.boxes_at(maps, index, image_sizes)
        features = torch.cat([values_at(maps.features, index), scores, scores.clamp(min=1e-4).log()], dim=-1)
        return boxes, queries + self.project(features.to(self.project.weight.dtype))

    def peaks(self, center: Tensor, number: int, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """logits (B, 1, H, W) -> scores (B, N, 1) and positions y * W + x (B, N) of the highest local maxima.

        Padding counts as infinitely low. Where there are fewer maxima than N, the highest other locations follow with
        score 0, and where there are fewer locations than N, the first one is repeated.
        """
        height, width = center.shape[2:]
        x = torch.arange(width, device=center.device)[None, None, None] * self.stride
        y = torch.arange(height, device=center.device)[None, None, :, None] * self.stride
        inside = (x < image_sizes[:, 0, None, None, None]) & (y < image_sizes[:, 1, None, None, None])
        center = torch.where(inside, center, -torch.inf)
        is_peak = center == F.max_pool2d(center, kernel_size=3, stride=1, padding=1)
        # others below 0, in an order of their own: ties would be broken in another way by every device
        ranks = torch.where(is_peak & inside, center.sigmoid(), F.logsigmoid(center)).flatten(1)
        ranks = F.pad(ranks, (0, number), value=-torch.inf)  # so that any map has N locations
        ranks, index = ranks.topk(number, dim=1)
        return ranks.clamp(min=0)[..., None], torch.where(ranks == -torch.inf, 0, index)

    def boxes_at(self, maps: CenterMaps, index: Tensor, image_sizes: Tensor) -> Tensor:
        """The boxes that the maps give at positions y * W + x (B, N) -> (B, N, 4), corners in pixels, detached.

        Before they are clipped to the image, they are at least 8 pixels wide and high.
        """
        width = maps.center.shape[3]
        location = torch.stack([index % width, index // width], dim=-1)
        limit = image_sizes[:, None]
        center = (location + values_at(maps.offset.detach(), index).flip(-1)) * self.stride
        center = torch.minimum(center.clamp(min=0), limit)
        size = (values_at(maps.size.detach(), index).flip(-1) * self.stride).clamp(min=8)
        corners = torch.cat([center - size / 2, center + size / 2], dim=-1)
        return torch.minimum(corners.clamp(min=0), limit.repeat(1, 1, 2))

    def losses(self, maps: CenterMaps, targets: Targets, num_persons: Tensor) -> dict[str, Tensor]:
        """Penalty-reduced focal loss of the center map, L1 of size (a tenth) and offset at the persons' centers.

        Each is a sum over the batch, divided by num_persons.
        """
        height, width = maps.center.shape[2:]
        # built on the device, a list would make the host wait
        counts = torch.tensor(targets.counts).to(maps.center.device, non_blocking=True)
        valid = (torch.arange(targets.boxes.shape[1], device=counts.device) < counts[:, None]).float()  # (B, P)
        center = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
        size = targets.boxes[..., 2:] - targets.boxes[..., :2]
        points = torch.cat([center, valid[..., None]], dim=-1)[:, :, None]  # (B, P, 1, 3)
        sigma = (size.prod(dim=-1).clamp(min=0).sqrt() / self.stride / 12).clamp(min=1.0)
        heatmaps = gaussian_heatmaps(points, (height, width), self.stride, sigma[..., None, None])

        position = center / self.stride
        column, row = position.floor().unbind(dim=-1)
        location = torch.stack([column.clamp(0, width - 1), row.clamp(0, height - 1)], dim=-1)
        index = (location[..., 1] * width + location[..., 0]).long()
        size_error = (values_at(maps.size, index).flip(-1) - size / self.stride).abs()
        offset_error = (values_at(maps.offset, index).flip(-1) - (position - location)).abs()
        return {
            "loss_center": heatmap_focal_loss(maps.center, heatmaps) / num_persons,
            "loss_center_size": 0.1 * (size_error * valid[..., None]).sum() / num_persons,
            "loss_center_offset": (offset_error * valid[..., None]).sum() / num_persons,
        }


def values_at(maps: Tensor, index: Tensor) -> Tensor:
    """maps (B, C, H, W) at positions y * W + x (B, N) -> (B, N, C)."""
    flat = maps.flatten(2)
    return flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
