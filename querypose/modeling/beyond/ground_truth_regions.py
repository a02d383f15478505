"""Ground-truth regions: the keypoint stages also train on boxes that hold their person."""

from dataclasses import dataclass

import torch
from torch import Tensor

from querypose.modeling.losses.matcher import Match
from querypose.modeling.losses.targets import Targets


@dataclass
class Regions:
    """R rows of training: the query of each, its person, and the box that every keypoint stage reads.

    rows: (R,) as image * N + query. persons: (R,) as image * P + person. boxes: (R, 4) corners in pixels.
    """

    rows: Tensor
    persons: Tensor
    boxes: Tensor


def ground_truth_regions(match: Match, targets: Targets, copies: int, jitter: float) -> Regions:
    """For each matched query, `copies` boxes of its person, each corner moved by U(-jitter, jitter) of the side.

    Early predicted boxes miss most of a person, and keypoints outside of the box do not count, so that keypoint stages
    learn only after the boxes have. As R-CNN does, ground truth is added to the proposals. A batch without a person
    gives one row without a labeled keypoint, so that every parameter takes part in the step.
    """
    if not len(match.rows):
        rows = match.rows.new_zeros(1)
        return Regions(rows, rows, targets.boxes.flatten(0, 1)[rows])
    rows, persons = match.rows.repeat(copies), match.persons.repeat(copies)
    boxes = targets.boxes.flatten(0, 1)[persons]
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return Regions(rows, persons, boxes + (2 * torch.rand_like(boxes) - 1) * jitter * size)
