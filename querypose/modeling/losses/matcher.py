"""The ground truth of a batch, and the one-to-one assignment of queries to its persons (Section 3.4)."""

from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass
class Targets:
    """Persons of B images, padded to the P of the image that has most of them, at least one.

    boxes: (B, P, 4) corners in pixels; padding is (0, 0, 1, 1). keypoints: (B, P, K, 3) x, y in pixels and
    visibility; padding is invisible. counts: persons of each image, on the host. box_scale: (B, 4) width, height,
    width, height of each image in pixels.
    """

    boxes: Tensor
    keypoints: Tensor
    counts: list[int]
    box_scale: Tensor

    @classmethod
    def from_instances(cls, instances: list[Instances], num_keypoints: int, device: torch.device) -> "Targets":
        """From Detectron2's `gt_boxes` and `gt_keypoints`; an image may have no person at all."""
        counts = [len(image) for image in instances]
        most = max(1, *counts)
        boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(instances), most, 1)
        keypoints = torch.zeros(len(instances), most, num_keypoints, 3)
        for index, (image, count) in enumerate(zip(instances, counts, strict=True)):
            if count:
                boxes[index, :count] = image.gt_boxes.tensor
                if image.has("gt_keypoints"):
                    keypoints[index, :count] = image.gt_keypoints.tensor
        scale = torch.tensor([image.image_size[::-1] * 2 for image in instances], dtype=torch.float32)
        boxes, keypoints, scale = (tensor.to(device, non_blocking=True) for tensor in (boxes, keypoints, scale))
        return cls(boxes, keypoints, counts, scale)


@dataclass
class Match:
    """The n matched pairs of a stage, (n,) both: rows as image * N + query, persons as image * P + person."""

    rows: Tensor
    persons: Tensor


@dataclass
class HungarianMatcher:
    """Minimises class, L1 and GIoU cost per image and stage; where persons outnumber queries, the best are matched."""

    class_weight: float = 2.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0

    @torch.no_grad()
    def assign(self, logits: list[Tensor], boxes: list[Tensor], targets: Targets) -> list[Match]:
        """S logits (B, N, 1) and boxes (B, N, 4) -> a match per stage, on the host; one transfer to it for all."""
        num_queries, most_persons = logits[0].shape[1], targets.boxes.shape[1]
        costs = torch.stack([self.cost(*stage, targets) for stage in zip(logits, boxes, strict=True)])
        # a diverged prediction must not stop the assignment: the loss reports it
        costs = torch.nan_to_num(costs, nan=1e6, posinf=1e6, neginf=-1e6)
        matches = []
        for stage_costs in costs.cpu().numpy():
            rows, persons = [], []
            for image, count in enumerate(targets.counts):
                query, person = linear_sum_assignment(stage_costs[image, :, :count])
                rows.append(torch.from_numpy(query) + image * num_queries)
                persons.append(torch.from_numpy(person) + image * most_persons)
            matches.append(Match(torch.cat(rows), torch.cat(persons)))
        return matches

    def cost(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """logits (B, N, 1), boxes (B, N, 4) -> costs (B, N, P); those of padded persons mean nothing."""
        scale = targets.box_scale[:, None]
        l1_cost = ((boxes / scale)[:, :, None] - (targets.boxes / scale)[:, None]).abs().sum(dim=-1)
        iou, gap = iou_and_gap(boxes[:, :, None], targets.boxes[:, None])
        probability = logits.float().sigmoid()
        # how much the focal loss falls where a query turns from background to person
        positive = 0.25 * (1 - probability) ** 2.0 * -(probability + 1e-8).log()
        negative = 0.75 * probability**2.0 * -(1 - probability + 1e-8).log()
        class_cost = positive - negative
        return self.class_weight * class_cost + self.l1_weight * l1_cost - self.giou_weight * (iou - gap)


def matches_on(matches: list[Match], device: torch.device) -> list[Match]:
    """The matches, as one transfer that nothing waits for."""
    pairs = [torch.stack([match.rows, match.persons]) for match in matches]
    moved = torch.cat(pairs, dim=1).to(device, non_blocking=True)
    return [Match(*pair) for pair in moved.split([pair.shape[1] for pair in pairs], dim=1)]


def matched_rows(matches: list[Match]) -> tuple[Tensor, list[int]]:
    """The rows (R,) that any of the S matches holds, once each, and how many of them each stage needs.

    A stage's part queries come from the stages before it, so that stage s needs the rows matched at s or later. Rows
    whose last match is late come first; stage s needs the first `number[s]`. A batch without a match still runs
    row 0, so that every parameter takes part in the step.
    """
    last_stage = {row: stage for stage, match in enumerate(matches) for row in match.rows.tolist()}
    if not last_stage:
        return matches[0].rows.new_zeros(1), [1] * len(matches)
    rows = sorted(last_stage, key=lambda row: (-last_stage[row], row))
    number = [sum(last >= stage for last in last_stage.values()) for stage in range(len(matches))]
    return matches[0].rows.new_tensor(rows), number


def iou_and_gap(first: Tensor, second: Tensor, eps: float = 1e-7) -> tuple[Tensor, Tensor]:
    """IoU of boxes (.., 4), corners, and the part of their hull that neither covers; the difference is their GIoU."""
    areas = [(box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (first, second)]
    inner = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    outer = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    intersection, hull = inner.clamp(min=0).prod(dim=-1), outer.prod(dim=-1)
    union = areas[0] + areas[1] - intersection
    return intersection / (union + eps), (hull - union) / (hull + eps)
