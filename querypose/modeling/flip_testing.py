"""Flip testing: the persons of an image and of its mirror image, matched by OKS and averaged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from querypose.errors import UserError
from querypose.skeleton import Skeleton

MIN_OKS = 0.5  # two persons with a lower one are not the same


@dataclass(frozen=True)
class FlipTesting:
    """Runs a detector on images and on their mirror images; both persons of a pair become one.

    Attributes:
        flip_indices: for each of the K keypoints the index of its mirror image.
        sigmas: of OKS, one per keypoint.
        max_detections: most persons returned for an image.
    """

    flip_indices: Sequence[int]
    sigmas: Sequence[float]
    max_detections: int = 100

    def __call__(
        self, detect: Callable[[list[dict[str, Any]]], list[Instances]], batched_inputs: list[dict[str, Any]]
    ) -> list[Instances]:
        """The averaged persons of every image, best score first; `detect` is called twice, with images (3, H, W)."""
        persons = detect(batched_inputs)
        mirrored = detect([{**inputs, "image": inputs["image"].flip(-1)} for inputs in batched_inputs])
        return [self.merge(*pair) for pair in zip(persons, mirrored, strict=True)]

    def merge(self, persons: Instances, mirrored: Instances) -> Instances:
        """One set of persons; `mirrored` is in pixels of the mirror image.

        The pairs are one to one, of an OKS of at least `MIN_OKS`, with the greatest sum of OKS times both scores:
        without NMS a person has duplicates of low scores, and OKS alone could pair one of these. A pair has the mean
        score, the mean box weighted by the scores, and mean keypoints weighted by their confidences. A person found
        only once keeps its score.
        """
        mirrored = self.mirror(mirrored)
        similarity = oks(persons.pred_keypoints, mirrored.pred_keypoints, persons.pred_boxes.area(), self.sigmas)
        similarity = torch.where(similarity >= MIN_OKS, similarity, 0.0)  # of NaN as well
        profit = similarity * persons.scores[:, None] * mirrored.scores
        first, second = map(torch.as_tensor, linear_sum_assignment(profit.double().cpu().numpy(), maximize=True))
        first, second = first.to(profit.device), second.to(profit.device)
        paired = similarity[first, second] > 0
        first, second = first[paired], second[paired]
        alone = [_without(group, rows) for group, rows in ((persons, first), (mirrored, second))]
        merged = Instances.cat([average(persons[first], mirrored[second]), *alone])
        return merged[merged.scores.argsort(descending=True, stable=True)[: self.max_detections]]

    def mirror(self, persons: Instances) -> Instances:
        """The same persons seen in a mirror: x becomes width - x, and left and right change places."""
        width = persons.image_size[1]
        x0, y0, x1, y1 = persons.pred_boxes.tensor.unbind(dim=1)
        keypoints = persons.pred_keypoints[:, list(self.flip_indices)]
        x, rest = keypoints[..., :1], keypoints[..., 1:]
        result = Instances(persons.image_size, **persons.get_fields())
        result.pred_boxes = Boxes(torch.stack([width - x1, y0, width - x0, y1], dim=1))
        result.pred_keypoints = torch.cat([width - x, rest], dim=-1)
        if persons.has("pred_keypoint_sigmas"):
            result.pred_keypoint_sigmas = persons.pred_keypoint_sigmas[:, list(self.flip_indices)]
        return result


def flip_testing(cfg: CfgNode, skeleton: Skeleton) -> FlipTesting:
    """The one of a config; raises `UserError` if nothing says which keypoint mirrors which."""
    if skeleton.num_keypoints > 1 and not skeleton.flip_pairs:
        raise UserError("TEST.FLIP needs flip pairs: give MODEL.QUERYPOSE.SKELETON.FLIP_PAIRS, or turn it off")
    return FlipTesting(skeleton.flip_indices, skeleton.sigmas, cfg.TEST.DETECTIONS_PER_IMAGE)


def oks(first: Tensor, second: Tensor, box_areas: Tensor, sigmas: Sequence[float]) -> Tensor:
    """COCO's object keypoint similarity (n, m) of keypoints (n, K, 2 or more) and (m, K, 2 or more), in pixels.

    Every keypoint counts; the area of a person is `box_areas` (n,).
    """
    distances = (first[:, None, :, :2] - second[None, :, :, :2]).square().sum(dim=-1)
    variances = (2 * torch.as_tensor(sigmas, dtype=distances.dtype, device=distances.device)).square()
    areas = box_areas.clamp(min=torch.finfo(distances.dtype).eps)[:, None, None]
    return torch.exp(-distances / (2 * variances * areas)).mean(dim=-1)


def average(first: Instances, second: Instances) -> Instances:
    """Persons of the same number, each averaged with the other of its index; see `FlipTesting.merge`."""
    weights = torch.stack([first.scores, second.scores])[..., None]
    boxes = torch.stack([first.pred_boxes.tensor, second.pred_boxes.tensor])
    points = torch.stack([first.pred_keypoints, second.pred_keypoints])
    positions = _weighted_mean(points[..., :2], points[..., 2:])
    result = Instances(first.image_size, **first.get_fields())
    result.pred_boxes = Boxes(_weighted_mean(boxes, weights))
    result.scores = weights[..., 0].mean(dim=0)
    result.pred_keypoints = torch.cat([positions, points[..., 2:].mean(dim=0)], dim=-1)
    if first.has("pred_keypoint_sigmas"):
        result.pred_keypoint_sigmas = (first.pred_keypoint_sigmas + second.pred_keypoint_sigmas) / 2
    return result


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Over the first dimension; weights that are all zero count the same."""
    weights = weights.clamp(min=torch.finfo(weights.dtype).eps)
    return (values * weights).sum(dim=0) / weights.sum(dim=0)


def _without(persons: Instances, rows: Tensor) -> Instances:
    keep = torch.ones(len(persons), dtype=torch.bool, device=rows.device)
    keep[rows] = False
    return persons[keep]
