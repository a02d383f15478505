"""MoveNet MultiPose with its own decoder (Google, Apache-2.0) as a baseline: the published graph in PyTorch."""

from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from querypose.conversion.movenet import movenet_state
from querypose.modeling.backbones.movenet import MoveNetBackbone, separable_conv
from querypose.modeling.beyond_the_paper import values_at
from querypose.modeling.ops.memory_layout import use_channels_last

STRIDE = 4
_PEAK_WINDOW = 5
_HEATMAP_REACH = 0.3  # of the maps' short side; a squared distance from the regressed keypoint, in locations
_CONFIDENT = 0.127  # keypoints above it count for a person's score


class MoveNetMultiPose(nn.Module):
    """The network and its decoder, with Detectron2's inputs and outputs.

    path: `movenet-multipose.json`, with the .bin beside it. persons: peaks to decode in each image (published: 6).
    """

    def __init__(self, path: str, device: str = "cpu", persons: int = 6):
        super().__init__()
        self.backbone = MoveNetBackbone(out_channels=1)
        self.keypoint_offset = nn.Sequential(*separable_conv(24, 96), nn.Conv2d(96, 34, 1))
        self.load_state_dict(movenet_state(path), strict=False)  # without the convolutions to p2 .. p5
        self.decoder = MoveNetDecoder()
        self.persons, self.device = persons, torch.device(device)
        # the layout of QueryPose on the same device
        channels_last = use_channels_last(None, device, self.backbone)
        self.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).to(self.device)

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """As `QueryPose.forward` in inference; images in RGB."""
        images = ImageList.from_tensors([image["image"].to(self.device) / 127.5 - 1 for image in inputs], 32)
        neck = self.backbone.pyramid(images.tensor)["p2"]
        maps = self.backbone.dense_maps(neck) | {"keypoint_offset": self.keypoint_offset(neck)}
        boxes, scores, keypoints = self.decoder(*find_peaks(maps["center"], self.persons), maps)
        outputs = []
        for index, (image, size) in enumerate(zip(inputs, images.image_sizes, strict=True)):
            persons = Instances(size, pred_boxes=Boxes(boxes[index]), scores=scores[index])
            persons.pred_classes = torch.zeros_like(persons.scores, dtype=torch.long)
            persons.pred_keypoints = keypoints[index]
            height, width = image.get("height", size[0]), image.get("width", size[1])
            outputs.append({"instances": detector_postprocess(persons, height, width)})
        return outputs


def find_peaks(center: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The locations (B, P), row-major, and scores (B, P) of the highest local maxima of (B, 1, H, W) logits."""
    center = center.sigmoid()
    is_peak = center == F.max_pool2d(center, _PEAK_WINDOW, stride=1, padding=_PEAK_WINDOW // 2)
    scores, locations = (center * is_peak).flatten(1).topk(number)
    return locations, scores


class MoveNetDecoder(nn.Module):
    """Boxes and keypoints of peaks: each keypoint is the heatmap's maximum near its regressed position in the box."""

    def forward(self, locations: Tensor, scores: Tensor, maps: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, P, 4), corners; scores (B, P); keypoints (B, P, K, 3): x, y and confidence; in pixels.

        locations, scores: (B, P), of `find_peaks`. maps: `HEADS` of the backbone and "keypoint_offset" (B, 2K, H, W): y
        and x from the location's corner.
        """
        height, width = maps["center"].shape[-2:]
        center = torch.stack([locations // width, locations % width], dim=-1)  # (B, P, 2), y and x
        half = values_at(maps["size"], locations).clamp(min=0) / 2
        middle = center + values_at(maps["offset"], locations)
        limit = torch.tensor([height, width], device=center.device)
        low, high = (torch.minimum(corner, limit).clamp(min=0) for corner in (middle - half, middle + half))
        moved = values_at(maps["regression"], locations).unflatten(-1, (-1, 2))  # (B, P, K, 2)
        regressed = center[..., None, :] + moved

        ys, xs = torch.arange(height, device=center.device), torch.arange(width, device=center.device)
        distance = (ys[:, None] - regressed[..., :1, None]) ** 2 + (xs - regressed[..., 1:, None]) ** 2
        near = torch.exp(-distance / (_HEATMAP_REACH * min(height, width)))
        rows = (ys >= low[..., :1]) & (ys < high[..., :1])
        columns = (xs >= low[..., 1:]) & (xs < high[..., 1:])
        inside = (rows[..., None] & columns[..., None, :])[:, :, None]
        weighted = (maps["heatmaps"].sigmoid()[:, None] * near * inside).flatten(3)  # (B, P, K, H W)
        best = weighted.argmax(dim=3)
        confidence = weighted.amax(dim=1).gather(2, best.transpose(1, 2)).transpose(1, 2)
        offsets = maps["keypoint_offset"].flatten(2).unflatten(1, (-1, 2))  # (B, K, 2, H W)
        found = offsets.gather(3, best.transpose(1, 2)[:, :, None].expand(-1, -1, 2, -1)).permute(0, 3, 1, 2)
        points = (torch.stack([best // width, best % width], dim=-1) + found).flip(-1)  # x and y

        confident = confidence > _CONFIDENT
        scores = scores * (confidence * confident).sum(dim=2) / confident.sum(dim=2).clamp(min=1)
        boxes = torch.cat([low.flip(-1), high.flip(-1)], dim=-1)
        return STRIDE * boxes, scores, torch.cat([STRIDE * points, confidence[..., None]], dim=-1)
