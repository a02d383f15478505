"""The cascade of box stages and keypoint stages over learnable queries (Section 3.1, Figures 2 and 3b)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from querypose.modeling.box_stage import BoxStage
from querypose.modeling.keypoint_stage import KEYPOINT_STAGE_REGISTRY
from querypose.modeling.ops.compilation import compile_module
from querypose.modeling.ops.pyramid_pooling import pool_regions


@dataclass
class BoxOutput:
    """What the S box stages predict.

    logits: S tensors (B, N, 1). boxes: S tensors (B, N, 4), corners in pixels of the network's input. queries: S
    tensors (B, N, d), the instance queries that each box stage hands to the keypoint stage after it.
    """

    logits: list[Tensor] = field(default_factory=list)
    boxes: list[Tensor] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)

    def append(self, logits: Tensor, boxes: Tensor, queries: Tensor) -> None:
        self.logits.append(logits)
        self.boxes.append(boxes)
        self.queries.append(queries)


@dataclass
class KeypointOutput:
    """What the keypoint stages predict for R of the queries.

    rows: (R,) these queries, as image * N + query. coordinates, sigmas: S tensors (R, K, 2) in units of the stage's
    box, its center at 0. attention: S tensors (R, M, H', W') over the stage's box, or None where the part embedding
    makes none. Where the stages were given different numbers of rows, a stage's tensors are of the first of the rows.
    """

    rows: Tensor
    coordinates: list[Tensor] = field(default_factory=list)
    sigmas: list[Tensor] = field(default_factory=list)
    attention: list[Tensor | None] = field(default_factory=list)

    def append(self, coordinates: Tensor, sigmas: Tensor, attention: Tensor | None) -> None:
        self.coordinates.append(coordinates)
        self.sigmas.append(sigmas)
        self.attention.append(attention)


class QueryPoseDecoder(nn.Module):
    """Holds the queries, the S box stages and the S keypoint stages.

    Light and branched variants: boxes do not depend on the keypoint stages (Figure 3a), so `decode_boxes` runs first
    and `decode_keypoints` only for the rows that are needed. Full variant: keypoint stage s hands its instance queries
    to box stage s + 1 (Figure 3b), so `decode_jointly` alternates them.

    Part queries belong to a query, not to a person: each query keeps its own from stage to stage, whichever person the
    stages match it to.
    """

    box_stages: Sequence[BoxStage]

    @configurable
    def __init__(
        self,
        *,
        box_stages: list[BoxStage],
        keypoint_stages: list[nn.Module],
        num_queries: int,
        num_parts: int,
        dim: int,
        part_dim: int,
        light: bool,
        keypoint_resolution: int,
        stride: int,
        learnable_boxes: bool = True,
        initialization: str = "deliberate",
        compile_mode: str = "none",
    ):
        """
        Args:
            box_stages, keypoint_stages: S modules each.
            num_queries: N; num_parts: M, 0 for keypoint stages without part queries; dim: d; part_dim: dp.
            light: whether the box stages run without the instance queries of the keypoint stages.
            keypoint_resolution: height and width of the RoI features of the keypoint stages (14).
            stride: pixels of the input per location of the finest feature map (4).
            learnable_boxes: False where the first boxes come from the image.
            initialization: "deliberate" or "authors", see `init_weights`.
            compile_mode: "none", or a mode of torch.compile for the stages, whose shapes depend on the number of rows
                alone.
        """
        super().__init__()
        self.box_stages = nn.ModuleList(box_stages)  # type: ignore[assignment]
        self.keypoint_stages = nn.ModuleList(keypoint_stages)
        self.proposal_boxes = nn.Embedding(num_queries, 4) if learnable_boxes else None
        self.instance_queries = nn.Embedding(num_queries, dim)
        self.part_queries = nn.Embedding(num_parts, part_dim) if num_parts else None
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
        stages = range(config.NUM_STAGES)
        keypoint_stage = KEYPOINT_STAGE_REGISTRY.get(config.KEYPOINT_STAGE)
        return {
            "box_stages": [BoxStage(cfg, feature_strides) for _ in stages],
            "keypoint_stages": [keypoint_stage(cfg, part_of_keypoint) for _ in stages],
            "num_queries": config.NUM_QUERIES,
            "num_parts": max(part_of_keypoint) + 1 if keypoint_stage.has_parts else 0,
            "dim": config.HIDDEN_DIM,
            "part_dim": config.PART_DIM,
            "light": config.VARIANT != "full",
            "keypoint_resolution": cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION,
            "stride": feature_strides[0],
            "learnable_boxes": not config.IMAGE_QUERIES.ENABLED,
            "initialization": config.INITIALIZATION,
            "compile_mode": cfg.MODEL.COMPILE,
        }

    def init_weights(self, initialization: str = "deliberate", class_prior: float = 0.01) -> None:
        """Xavier for every matrix of the stages, whole-image proposal boxes, a class bias for rare persons.

        "deliberate" then applies each part's own initialization: undecided attention maps and a small
        deconvolution in the SPEGM, coordinates near the box centre. "authors" leaves Xavier on all of them, as the
        authors' release does.
        """
        for stage in [*self.box_stages, *self.keypoint_stages]:
            for parameter in stage.parameters():
                # part heads stack their matrices in three dimensions
                for matrix in parameter if parameter.dim() == 3 else [parameter]:
                    if matrix.dim() > 1:
                        nn.init.xavier_uniform_(matrix)
        for box_stage in self.box_stages:
            nn.init.constant_(box_stage.class_logit.bias, -math.log((1 - class_prior) / class_prior))
            if self.proposal_boxes is None:  # the first boxes are good: the first step must not move them
                nn.init.zeros_(box_stage.box_delta.weight)
                nn.init.zeros_(box_stage.box_delta.bias)
        if self.proposal_boxes is not None:
            nn.init.constant_(self.proposal_boxes.weight[:, :2], 0.5)
            nn.init.constant_(self.proposal_boxes.weight[:, 2:], 1.0)
        if initialization == "deliberate":
            for stage in [*self.box_stages, *self.keypoint_stages]:
                for part in stage.children():
                    if hasattr(part, "init_weights"):
                        part.init_weights()

    def proposals(self, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The learnable boxes as corners in pixels (B, N, 4), and the learnable instance queries (B, N, d).

        image_sizes: (B, 2) width and height of each image without padding, in pixels.
        """
        boxes = corners_in_pixels(self.proposal_boxes.weight, image_sizes)  # type: ignore[union-attr]
        return boxes, self.learnable_queries(image_sizes.shape[0])

    def learnable_queries(self, batch: int) -> Tensor:
        """The learnable instance queries, the same for each image, (B, N, d)."""
        return self.instance_queries.weight.expand(batch, -1, -1)

    def decode_boxes(self, features: list[Tensor], boxes: Tensor, queries: Tensor) -> BoxOutput:
        """All box stages, light and branched variants.

        Args:
            features: feature maps (B, d, H_l, W_l), finest first.
            boxes: (B, N, 4) corners in pixels of the network's input; queries: (B, N, d) instance queries.
        """
        output = BoxOutput()
        for stage in self.box_stages:
            logits, refined, queries = stage(stage.pool(features, boxes), boxes, queries)
            boxes = refined.detach()
            output.append(logits, refined, queries)
        return output

    def decode_keypoints(
        self,
        feature: Tensor,
        boxes: BoxOutput,
        rows: Tensor,
        rows_per_stage: list[int] | None = None,
        regions: Tensor | None = None,
    ) -> KeypointOutput:
        """All keypoint stages for some of the queries; the result of a row does not depend on the others.

        Args:
            feature: the finest feature map, P2 (B, d, H, W).
            boxes: of the box stages.
            rows: (R,) queries, as image * N + query.
            rows_per_stage: how many of the first of them each stage needs, none more than the stage before it; None:
                every stage needs them all.
            regions: (R, 4) boxes to read in every stage instead of the stage's own.
        """
        num_queries = boxes.logits[0].shape[1]
        part_queries = self.initial_part_queries(rows.shape[0])
        output = KeypointOutput(rows)
        for index, stage in enumerate(self.keypoint_stages):
            if rows_per_stage is not None:
                rows = output.rows[: rows_per_stage[index]]
                part_queries = None if part_queries is None else part_queries[: rows.shape[0]]
            corners = boxes.boxes[index].detach().flatten(0, 1)[rows] if regions is None else regions
            pooled = self.pool_keypoint_regions(feature, corners, rows // num_queries)
            queries = boxes.queries[index].flatten(0, 1)[rows]
            coordinates, sigmas, _, part_queries, attention = stage(pooled, queries, part_queries)
            output.append(coordinates, sigmas, attention)
        return output

    def decode_jointly(
        self, features: list[Tensor], boxes: Tensor, queries: Tensor, topk: int = 0, score_floor: float = 0.0
    ) -> tuple[BoxOutput, KeypointOutput]:
        """Box stages and keypoint stages in turn, full variant.

        Args:
            features, boxes, queries: as of `decode_boxes`.
            topk: run each keypoint stage only for the k queries of an image with the highest class score of the stage;
                the other queries keep their instance query and part queries, which is an approximation. 0 runs all.
            score_floor: run the last keypoint stage only for queries with at least this class probability (exact).

        Returns:
            with a `topk` or `score_floor`, the keypoint output is that of the last stage and its rows alone.
        """
        batch, number, _ = queries.shape
        part_queries = self.initial_part_queries(batch * number)
        box_output, output = BoxOutput(), KeypointOutput(torch.arange(batch * number, device=queries.device))
        for box_stage, keypoint_stage in zip(self.box_stages, self.keypoint_stages, strict=True):
            logits, refined, queries = box_stage(box_stage.pool(features, boxes), boxes, queries)
            boxes = refined.detach()
            box_output.append(logits, refined, queries)

            last = keypoint_stage is self.keypoint_stages[-1]
            rows = select_rows(logits, topk, score_floor if last else 0.0)
            flat = queries.flatten(0, 1)
            pooled = self.pool_keypoint_regions(features[0], boxes.flatten(0, 1)[rows], rows // number)
            parts = None if part_queries is None else part_queries[rows]
            coordinates, sigmas, updated, parts, attention = keypoint_stage(pooled, flat[rows], parts)
            if not last:
                queries = flat.index_copy(0, rows, updated.to(flat)).view_as(queries)
                part_queries = None if part_queries is None else part_queries.to(parts).index_copy(0, rows, parts)
            output.rows = rows
            output.append(coordinates, sigmas, attention)
        if topk or score_floor:
            output = KeypointOutput(rows, output.coordinates[-1:], output.sigmas[-1:], output.attention[-1:])
        return box_output, output

    def initial_part_queries(self, number: int) -> Tensor | None:
        """The learnable part queries (number, M, dp), the same for every person; None where there are none."""
        return None if self.part_queries is None else self.part_queries.weight.expand(number, -1, -1)

    def pool_keypoint_regions(self, feature: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        """RoI features (R, d, 14, 14) of boxes (R, 4), in pixels, of images (R,) on P2 (B, d, H, W)."""
        return pool_regions(feature, boxes, image_index, self.keypoint_resolution, 1 / self.stride)


def select_rows(logits: Tensor, topk: int = 0, score_floor: float = 0.0) -> Tensor:
    """The queries (R,), as image * N + query, that keypoint stages are run for.

    Args:
        logits: (B, N, 1) class logits.
        topk: keep the k highest of each image; 0 keeps all.
        score_floor: of these, keep class probabilities of at least this; 0 keeps all.
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
    center, size = boxes.split(2, dim=1)
    corners = torch.cat([center - size / 2, center + size / 2], dim=1)
    return corners[None] * image_sizes.repeat(1, 2)[:, None]
