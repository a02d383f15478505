"""Non-shared linear heads that read each keypoint from the query of its part (Section 3.4, `Linear` in Eq. 2)."""

import torch
from torch import Tensor, nn


class PartLinear(nn.Module):
    """A linear layer of its own for every part, as one stacked matrix product: (R, in) -> (R, M, out)."""

    def __init__(self, num_parts: int, in_dim: int, out_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_parts, out_dim, in_dim))
        self.bias = nn.Parameter(torch.zeros(num_parts, out_dim))
        for part in self.weight:
            nn.init.xavier_uniform_(part)

    def forward(self, query: Tensor) -> Tensor:
        stacked = nn.functional.linear(query, self.weight.flatten(0, 1), self.bias.flatten())
        return stacked.view(-1, *self.bias.shape)


class KeypointHeads(nn.Module):
    """Coordinates and their spread, two numbers each per keypoint, from the part query that holds the keypoint.

    Coordinates are (q W^T) / ||q|| + b in units of the stage's box, with its centre at 0; sigma = sigmoid(q W^T + b)
    in the same units, or 0 without sigma. Every keypoint has its own rows of W, in the skeleton's order.
    """

    part_of_keypoint: Tensor

    def __init__(self, part_of_keypoint: list[int], part_dim: int, with_sigma: bool = True, gain: float = 1.0):
        """part_of_keypoint: for each of the K keypoints its part; part_dim: dp; gain: of Xavier's weights."""
        super().__init__()
        self.gain = gain
        num_keypoints = len(part_of_keypoint)
        self.register_buffer("part_of_keypoint", torch.tensor(part_of_keypoint), persistent=False)
        self.coordinate_weight = nn.Parameter(torch.empty(num_keypoints, 2, part_dim))
        self.coordinate_bias = nn.Parameter(torch.zeros(num_keypoints, 2))
        self.sigma_weight = nn.Parameter(torch.empty(num_keypoints, 2, part_dim)) if with_sigma else None
        self.sigma_bias = nn.Parameter(torch.zeros(num_keypoints, 2)) if with_sigma else None
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier's weights of every keypoint, times the gain."""
        for weight in (self.coordinate_weight, self.sigma_weight):
            for keypoint in weight if weight is not None else ():
                nn.init.xavier_uniform_(keypoint, gain=self.gain)

    def forward(self, part_queries: Tensor) -> tuple[Tensor, Tensor]:
        """part_queries (R, M, dp) -> coordinates (R, K, 2) and sigmas (R, K, 2), float32, in box units."""
        # sigma divides an error in the loss: it is kept in float32 whatever the precision of the rest
        with torch.autocast(part_queries.device.type, enabled=False):
            queries = part_queries.float()[:, self.part_of_keypoint]  # (R, K, dp)
            norm = queries.norm(dim=-1, keepdim=True).clamp(min=1e-6)
            coordinates = torch.einsum("rkc,koc->rko", queries, self.coordinate_weight) / norm
            coordinates = coordinates + self.coordinate_bias
            if self.sigma_weight is None or self.sigma_bias is None:
                return coordinates, torch.zeros_like(coordinates)
            sigmas = torch.einsum("rkc,koc->rko", queries, self.sigma_weight) + self.sigma_bias
            return coordinates, torch.sigmoid(sigmas)
