"""Ground truth of a batch, padded to one tensor per kind."""

from dataclasses import dataclass

import torch
from detectron2.structures import Instances
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
