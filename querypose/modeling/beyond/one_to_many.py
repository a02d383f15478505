"""One-to-many boxes: a second set of queries trains the box stages with several queries per person."""

import torch
from torch import Tensor, nn

from querypose.modeling.decoder import corners_in_pixels
from querypose.modeling.losses.targets import Targets


class OneToManyProposals(nn.Module):
    """Learnable boxes and instance queries that go through the box stages by themselves, in training only.

    Hybrid matching (arXiv 2207.13080) for boxes alone: each person is matched to `repeats` of these queries, so that
    the box stages see as many times the positive examples of one-to-one matching.
    """

    def __init__(self, num_queries: int, dim: int, repeats: int = 4):
        """num_queries: N' of the second set; dim: d; repeats: queries that each person is matched to."""
        super().__init__()
        self.boxes = nn.Embedding(num_queries, 4)
        self.queries = nn.Embedding(num_queries, dim)
        self.repeats = repeats
        # a grid of boxes of a third of the image, which persons of any position have some overlap with
        columns = max(1, round(num_queries**0.5))
        index = torch.arange(num_queries)
        rows = -(-num_queries // columns)
        with torch.no_grad():
            self.boxes.weight[:, 0] = (index % columns + 0.5) / columns
            self.boxes.weight[:, 1] = (index // columns + 0.5) / rows
            self.boxes.weight[:, 2:] = 1 / 3

    def forward(self, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """(width, height) (B, 2) in pixels -> boxes (B, N', 4), corners in pixels, and queries (B, N', d)."""
        return (
            corners_in_pixels(self.boxes.weight, image_sizes),
            self.queries.weight.expand(len(image_sizes), -1, -1),
        )

    def targets(self, targets: Targets) -> Targets:
        """The ground truth with each person repeated."""
        most, repeats = targets.boxes.shape[1], self.repeats
        index = torch.zeros(len(targets.counts), most * repeats, dtype=torch.long)
        for image, count in enumerate(targets.counts):
            index[image, : count * repeats] = torch.arange(count).repeat(repeats)
        index = index.to(targets.boxes.device, non_blocking=True)[..., None].expand(-1, -1, 4)
        counts = [count * repeats for count in targets.counts]
        return Targets(targets.boxes.gather(1, index), targets.keypoints, counts, targets.box_scale)
