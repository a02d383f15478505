"""The cascade of box stages and keypoint stages over learnable queries (Section 3.1, Figures 2 and 3b)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torchvision.ops import box_convert

from querypose.modeling.box_stage import BoxStage
from querypose.modeling.keypoint_stage import KEYPOINT_STAGE_REGISTRY
from querypose.modeling.ops.compilation import compile_module
from querypose.modeling.ops.pyramid_pooling import pool_regions


@dataclass
class BoxOutput:
    """What the S box stages predict, one tensor per stage."""

    logits: list[Tensor]  # (B, N, 1)
    boxes: list[Tensor]  # (B, N, 4), corners in pixels of the network's input
    queries: list[Tensor]  # (B, N, d), the instance queries that the stage hands to its keypoint stage


@dataclass
class KeypointOutput:
    """What the S keypoint stages predict for R of the queries; a stage that ran for fewer has the first of the rows."""

    rows: Tensor  # (R,) these queries, as image * N + query
    coordinates: list[Tensor]  # (R, K, 2) in units of the stage's box, its center at 0
    sigmas: list[Tensor]  # (R, K, 2) in the same units
    attention: list[Tensor | None]  # (R, M, H', W') over the stage's box, None where the part embedding makes none


class QueryPoseDecoder(nn.Module):
    """Holds the queries, the S box stages and the S keypoint stages.

    Each query keeps its own part queries from stage to stage, whichever person the stages match it to.
    """

    box_stages: Sequence[BoxStage]

    @configurable
    def __init__(
        self,
        *,
        box_stages: list[BoxStage],
        keypoint_stages: list[nn.Module],
        proposal_boxes: nn.Embedding | None,
        instance_queries: nn.Embedding,
        part_queries: nn.Embedding | None,
        light: bool,
        keypoint_resolution: int,
        stride: int,
        initialization: str = "deliberate",
        compile_mode: str = "none",
    ):
        """
        Args:
            proposal_boxes: (N, 4) as (cx, cy, w, h) in units of the image; None: the first boxes come from the image.
            instance_queries: (N, d); part_queries: (M, dp), None for keypoint stages without them.
            light: whether the box stages run without the instance queries of the keypoint stages.
            keypoint_resolution: height and width of the RoI features of the keypoint stages (14).
            stride: pixels of the input per location of the finest feature map (4).
            initialization: see `init_weights`; compile_mode: "none", or a mode of torch.compile for the stages.
        """
        super().__init__()
        self.box_stages = nn.ModuleList(box_stages)  # type: ignore[assignment]
        self.keypoint_stages = nn.ModuleList(keypoint_stages)
        self.proposal_boxes = proposal_boxes
        self.instance_queries = instance_queries
        self.part_queries = part_queries
        self.light = light
        self.keypoint_resolution = keypoint_resolution
        self.stride = stride
        self.init_weights(initialization)
        if compile_mode != "none":
            for stage in [*self.box_stages, *self.keypoint_stages]:
                compile_module(stage, compile_mode)

    @classmethod
    def from_config(cls, cfg: CfgNode, part_of_keypoint: list[int], feature_strides: list[int]) -> dict[str, Any]:
        config = cfg.MODEL.QUERYPOSE
        stages, number = range(config.NUM_STAGES), config.NUM_QUERIES
        keypoint_stage = KEYPOINT_STAGE_REGISTRY.get(config.KEYPOINT_STAGE)
        num_parts = max(part_of_keypoint) + 1
        return {
            "box_stages": [BoxStage(cfg, feature_strides) for _ in stages],
            "keypoint_stages": [keypoint_stage(cfg, part_of_keypoint) for _ in stages],
            "proposal_boxes": None if config.IMAGE_QUERIES.ENABLED else nn.Embedding(number, 4),
            "instance_queries": nn.Embedding(number, config.HIDDEN_DIM),
            "part_queries": nn.Embedding(num_parts, config.PART_DIM) if keypoint_stage.has_parts else None,
            "light": config.VARIANT != "full",
            "keypoint_resolution": cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION,
            "stride": feature_strides[0],
            "initialization": config.INITIALIZATION,
            "compile_mode": cfg.MODEL.COMPILE,
        }

    def init_weights(self, initialization: str) -> None:
        """Xavier for every matrix of the stages, whole-image proposal boxes, a class probability of 0.01.

        "deliberate" then applies each part's own initialization: undecided attention, offsets from anchors near zero.
        "authors" leaves Xavier on all of them, as the authors' release does.
        """
        stages = [*self.box_stages, *self.keypoint_stages]
        for parameter in (parameter for stage in stages for parameter in stage.parameters()):
            # part heads stack their matrices in three dimensions
            for matrix in parameter if parameter.dim() == 3 else [parameter]:
                if matrix.dim() > 1:
                    nn.init.xavier_uniform_(matrix)
        for box_stage in self.box_stages:
            nn.init.constant_(box_stage.class_logit.bias, -math.log(99))
            if self.proposal_boxes is None:  # the first boxes are good: the first step must not move them
                nn.init.zeros_(box_stage.box_delta.weight)
                nn.init.zeros_(box_stage.box_delta.bias)
        if self.proposal_boxes is not None:
            nn.init.constant_(self.proposal_boxes.weight[:, :2], 0.5)
            nn.init.constant_(self.proposal_boxes.weight[:, 2:], 1.0)
        if initialization == "deliberate":
            for part in (part for stage in stages for part in stage.children()):
                if hasattr(part, "init_weights"):
                    part.init_weights()

    def proposals(self, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The learnable boxes as corners in pixels (B, N, 4), and the learnable instance queries (B, N, d).

        image_sizes: (B, 2) width and height of each image without padding, in pixels.
        """
        boxes = corners_in_pixels(self.proposal_boxes.weight, image_sizes)  # type: ignore[union-attr]
        return boxes, self.instance_queries.weight.expand(image_sizes.shape[0], -1, -1)

    def forward(
        self, features: list[Tensor], boxes: Tensor, queries: Tensor, topk: int = 0, score_floor: float = 0.0
    ) -> tuple[BoxOutput, KeypointOutput]:
        """All stages.

        Args:
            features: feature maps (B, d, H_l, W_l), finest first.
            boxes: (B, N, 4) corners in pixels of the network's input; queries: (B, N, d) instance queries.
            topk, score_floor: run the keypoint stages for the queries that `select_rows` keeps.
        """
        if not self.light:
            return self.decode_jointly(features, boxes, queries, topk, score_floor)
        output = self.decode_boxes(features, boxes, queries)
        return output, self.decode_keypoints(features[0], output, select_rows(output.logits[-1], topk, score_floor))

    def decode_boxes(self, features: list[Tensor], boxes: Tensor, queries: Tensor) -> BoxOutput:
        """All box stages, light and branched variants (Figure 3a); arguments as of `forward`."""
        outputs = []
        for stage in self.box_stages:
            logits, refined, queries = stage(stage.pool(features, boxes), boxes, queries)
            outputs.append((logits, refined, queries))
            boxes = refined.detach()
        return BoxOutput(*map(list, zip(*outputs, strict=True)))

    def decode_keypoints(
        self, p2: Tensor, boxes: BoxOutput, rows: Tensor, counts: list[int] | None = None, regions: Tensor | None = None
    ) -> KeypointOutput:
        """All keypoint stages for some of the queries; the result of a row does not depend on the others.

        Args:
            p2: the finest feature map (B, d, H, W).
            rows: (R,) queries, as image * N + query.
            counts: how many of the first of them each stage needs, none more than the stage before it; None: all.
            regions: (R, 4) boxes to read in every stage instead of the stage's own.
        """
        part_queries = self.initial_part_queries(rows.shape[0])
        outputs, kept = [], rows
        for index, stage in enumerate(self.keypoint_stages):
            if counts is not None:
                kept = rows[: counts[index]]
                part_queries = None if part_queries is None else part_queries[: kept.shape[0]]
            corners = boxes.boxes[index].detach().flatten(0, 1)[kept] if regions is None else regions
            pooled = self.pool_keypoint_regions(p2, corners, kept // boxes.logits[0].shape[1])
            queries = boxes.queries[index].flatten(0, 1)[kept]
            coordinates, sigmas, _, part_queries, attention = stage(pooled, queries, part_queries)
            outputs.append((coordinates, sigmas, attention))
        return KeypointOutput(rows, *map(list, zip(*outputs, strict=True)))

    def decode_jointly(
        self, features: list[Tensor], boxes: Tensor, queries: Tensor, topk: int = 0, score_floor: float = 0.0
    ) -> tuple[BoxOutput, KeypointOutput]:
        """Box stages and keypoint stages in turn, full variant (Figure 3b); arguments as of `forward`.

        With a topk, each keypoint stage runs for the best queries of its own box stage; the others keep their instance
        and part queries, which is an approximation. The score_floor, which is exact, concerns the last stage. With
        either, the keypoint output is that of the last stage and its rows alone.
        """
        batch, number, _ = queries.shape
        part_queries = self.initial_part_queries(batch * number)
        box_outputs, outputs = [], []
        for box_stage, keypoint_stage in zip(self.box_stages, self.keypoint_stages, strict=True):
            logits, refined, queries = box_stage(box_stage.pool(features, boxes), boxes, queries)
            box_outputs.append((logits, refined, queries))
            boxes = refined.detach()

            last = keypoint_stage is self.keypoint_stages[-1]
            rows = select_rows(logits, topk, score_floor if last else 0.0)
            flat = queries.flatten(0, 1)
            pooled = self.pool_keypoint_regions(features[0], boxes.flatten(0, 1)[rows], rows // number)
            parts = None if part_queries is None else part_queries[rows]
            coordinates, sigmas, updated, parts, attention = keypoint_stage(pooled, flat[rows], parts)
            outputs.append((coordinates, sigmas, attention))
            if not last:
                queries = flat.index_copy(0, rows, updated.to(flat)).view_as(queries)
                part_queries = None if part_queries is None else part_queries.to(parts).index_copy(0, rows, parts)
        outputs = outputs[-1:] if topk or score_floor else outputs
        keypoint_output = KeypointOutput(rows, *map(list, zip(*outputs, strict=True)))
        return BoxOutput(*map(list, zip(*box_outputs, strict=True))), keypoint_output

    def initial_part_queries(self, number: int) -> Tensor | None:
        """The learnable part queries (number, M, dp), the same for every person; None where there are none."""
        return None if self.part_queries is None else self.part_queries.weight.expand(number, -1, -1)

    def pool_keypoint_regions(self, feature: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        """RoI features (R, d, 14, 14) of boxes (R, 4), in pixels, of images (R,) on P2 (B, d, H, W)."""
        return pool_regions(feature, boxes, image_index, self.keypoint_resolution, 1 / self.stride)


def select_rows(logits: Tensor, topk: int = 0, score_floor: float = 0.0) -> Tensor:
    """class logits (B, N, 1) -> the queries (R,), as image * N + query, that keypoint stages are run for.

    Those are the topk highest of each image (0: all), and of these the class probabilities of at least score_floor.
    """
    scores = logits.detach().flatten(1)
    batch, number = scores.shape
    first = torch.arange(batch, device=scores.device)[:, None] * number
    if 0 < topk < number:
        scores, indices = scores.topk(topk, dim=1)
        rows = indices + first
    else:
        rows = first + torch.arange(number, device=scores.device)
    if score_floor > 0:
        return rows[scores.float().sigmoid() >= score_floor]
    return rows.flatten()


def corners_in_pixels(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """boxes (N, 4), (cx, cy, w, h) as fractions of the image, and (width, height) (B, 2) -> corners (B, N, 4)."""
    return box_convert(boxes, "cxcywh", "xyxy")[None] * image_sizes.repeat(1, 2)[:, None]
