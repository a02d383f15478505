"""Flip testing: the persons of an image and of its mirror image, matched by OKS and averaged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from querypose.errors import UserError
from querypose.skeleton import Skeleton


@dataclass(frozen=True)
class FlipTesting:
    """Runs a detector on images and on their mirror images; both persons of a pair become one."""

    skeleton: Skeleton
    max_detections: int = 100  # of an image

    def __post_init__(self) -> None:
        if self.skeleton.num_keypoints > 1 and not self.skeleton.flip_pairs:
            raise UserError("TEST.FLIP needs flip pairs: give MODEL.QUERYPOSE.SKELETON.FLIP_PAIRS, or turn it off")

    def __call__(
        self, detect: Callable[[list[dict[str, Any]]], list[Instances]], batched_inputs: list[dict[str, Any]]
    ) -> list[Instances]:
        """The averaged persons of every image, best score first; `detect` is called twice, with images (3, H, W)."""
        persons = detect(batched_inputs)
        mirrored = detect([{**inputs, "image": inputs["image"].flip(-1)} for inputs in batched_inputs])
        return [self.merge(*pair) for pair in zip(persons, mirrored, strict=True)]

    def merge(self, persons: Instances, mirrored: Instances) -> Instances:
        """One set of persons; `mirrored` is in pixels of the mirror image.

        The pairs are one to one, of an OKS of at least 0.5, with the greatest sum of OKS times both scores: OKS
        alone could pair a person's duplicates of low scores. A person found only once keeps its score.
        """
        mirrored, areas = self.mirror(mirrored), persons.pred_boxes.area()
        similarity = oks(persons.pred_keypoints, mirrored.pred_keypoints, areas, self.skeleton.sigmas)
        similarity = torch.where(similarity >= 0.5, similarity, 0.0)  # of NaN as well
        profit = similarity * persons.scores[:, None] * mirrored.scores
        pairs = linear_sum_assignment(profit.double().cpu().numpy(), maximize=True)
        rows = torch.from_numpy(np.stack(pairs)).to(profit.device)
        first, second = rows[:, similarity[rows[0], rows[1]] > 0]
        groups = [average(persons[first], mirrored[second])]
        for group, paired in ((persons, first), (mirrored, second)):
            groups.append(group[~torch.isin(torch.arange(len(group), device=paired.device), paired)])
        merged = Instances.cat(groups)
        return merged[merged.scores.argsort(descending=True, stable=True)[: self.max_detections]]

    def mirror(self, persons: Instances) -> Instances:
        """The same persons seen in a mirror: x becomes width - x, and left and right change places."""
        width, mirrored = persons.image_size[1], self.skeleton.flip_indices
        x0, y0, x1, y1 = persons.pred_boxes.tensor.unbind(dim=1)
        x, rest = persons.pred_keypoints[:, mirrored].split([1, 2], dim=-1)
        result = Instances(persons.image_size, **persons.get_fields())
        result.pred_boxes = Boxes(torch.stack([width - x1, y0, width - x0, y1], dim=1))
        result.pred_keypoints = torch.cat([width - x, rest], dim=-1)
        if persons.has("pred_keypoint_sigmas"):
            result.pred_keypoint_sigmas = persons.pred_keypoint_sigmas[:, mirrored]
        return result


def oks(first: Tensor, second: Tensor, box_areas: Tensor, sigmas: Sequence[float]) -> Tensor:
    """COCO's object keypoint similarity (n, m) of keypoints (n, K, 2 or more) and (m, K, 2 or more), in pixels.

    Every keypoint counts; the area of a person is `box_areas` (n,).
    """
    distances = (first[:, None, :, :2] - second[None, :, :, :2]).square().sum(dim=-1)
    variances = (2 * torch.as_tensor(sigmas, dtype=distances.dtype, device=distances.device)).square()
    areas = box_areas.clamp(min=torch.finfo(distances.dtype).eps)[:, None, None]
    return torch.exp(-distances / (2 * variances * areas)).mean(dim=-1)


def average(first: Instances, second: Instances) -> Instances:
    """Pairs of persons: mean scores, sigmas and confidences, boxes weighted by score, keypoints by confidence."""
    scores = torch.stack([first.scores, second.scores])
    boxes = torch.stack([first.pred_boxes.tensor, second.pred_boxes.tensor])
    points, confidences = torch.stack([first.pred_keypoints, second.pred_keypoints]).split([2, 1], dim=-1)
    result = Instances(first.image_size, **first.get_fields())
    result.pred_boxes = Boxes(_weighted_mean(boxes, scores[..., None]))
    result.scores = scores.mean(dim=0)
    result.pred_keypoints = torch.cat([_weighted_mean(points, confidences), confidences.mean(dim=0)], dim=-1)
    if first.has("pred_keypoint_sigmas"):
        result.pred_keypoint_sigmas = (first.pred_keypoint_sigmas + second.pred_keypoint_sigmas) / 2
    return result


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Over the first dimension; weights that are all zero count the same."""
    weights = weights.clamp(min=torch.finfo(weights.dtype).eps)
    return (values * weights).sum(dim=0) / weights.sum(dim=0)
