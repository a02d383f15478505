"""The cascade of box stages and keypoint stages over learnable queries (Section 3.1, Figures 2 and 3b)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.config import configurable
from torch import Tensor, nn

from querypose.modeling.box_stage import BoxStage
from querypose.modeling.keypoint_stage import KeypointStage


@dataclass
class DecoderOutput:
    """What every stage predicts.

    logits: S tensors (B, N, 1). boxes: S tensors (B, N, 4), corners in pixels of the network's input.
    rows: (R,) which queries went through the keypoint stages, as image * N + query.
    coordinates, sigmas: S tensors (R, K, 2) in units of the stage's box, its centre at 0.
    """

    logits: list[Tensor]
    boxes: list[Tensor]
    rows: Tensor
    coordinates: list[Tensor]
    sigmas: list[Tensor]


class QueryPoseDecoder(nn.Module):
    """Holds the queries and runs them through S pairs of a box stage and a keypoint stage.

    Full variant: keypoint stage s hands its instance queries to box stage s + 1 (Figure 3b), so that the stages
    alternate. Light variant: boxes do not depend on keypoint stages, so that all box stages run first and the
    keypoint stages only for the rows that the caller selects.
    """

    @configurable
    def __init__(
        self,
        *,
        box_stages: list[nn.Module],
        keypoint_stages: list[nn.Module],
        num_queries: int,
        num_parts: int,
        dim: int,
        part_dim: int,
        light: bool,
        initialization: str = "deliberate",
    ):
        """
        Args:
            box_stages, keypoint_stages: S modules each.
            num_queries: N; num_parts: M; dim: d; part_dim: dp.
            light: whether the keypoint stages leave the instance queries alone.
            initialization: "deliberate" or "authors", see `init_weights`.
        """
        super().__init__()
        self.box_stages = nn.ModuleList(box_stages)
        self.keypoint_stages = nn.ModuleList(keypoint_stages)
        self.proposal_boxes = nn.Embedding(num_queries, 4)
        self.instance_queries = nn.Embedding(num_queries, dim)
        self.part_queries = nn.Embedding(num_parts, part_dim)
        self.light = light
        self.init_weights(initialization)

    @classmethod
    def from_config(cls, cfg, part_of_keypoint: list[int], feature_strides: list[int]):
        config = cfg.MODEL.QUERYPOSE
        stages = range(config.NUM_STAGES)
        return {
            "box_stages": [BoxStage(cfg, feature_strides) for _ in stages],
            "keypoint_stages": [KeypointStage(cfg, part_of_keypoint, feature_strides[0]) for _ in stages],
            "num_queries": config.NUM_QUERIES,
            "num_parts": max(part_of_keypoint) + 1,
            "dim": config.HIDDEN_DIM,
            "part_dim": config.PART_DIM,
            "light": config.VARIANT == "light",
            "initialization": config.INITIALIZATION,
        }

    def init_weights(self, initialization: str = "deliberate", class_prior: float = 0.01) -> None:
        """Xavier for every matrix of the stages, whole-image proposal boxes, a class bias for rare persons.

        "deliberate" then applies each part's own initialisation: undecided attention maps and a small
        deconvolution in the SPEGM, coordinates near the box centre. "authors" leaves Xavier on all of them, as the
        authors' release does.
        """
        for stages in (self.box_stages, self.keypoint_stages):
            for parameter in stages.parameters():
                if parameter.dim() > 1:
                    _xavier_uniform(parameter)
        for stage in self.box_stages:
            nn.init.constant_(stage.class_logit.bias, -math.log((1 - class_prior) / class_prior))
        nn.init.constant_(self.proposal_boxes.weight[:, :2], 0.5)
        nn.init.constant_(self.proposal_boxes.weight[:, 2:], 1.0)
        if initialization == "deliberate":
            for stage in self.keypoint_stages:
                for part in (stage.part_embedding, stage.part_update, stage.heads):
                    if hasattr(part, "init_weights"):
                        part.init_weights()

    def forward(
        self,
        features: list[Tensor],
        image_sizes: Tensor,
        select: Callable[[list[Tensor], list[Tensor]], Tensor] | None = None,
    ) -> DecoderOutput:
        """
        Args:
            features: feature maps (B, d, H_l, W_l), finest first.
            image_sizes: (B, 2) width and height of each image without padding, in pixels.
            select: from the logits and boxes of all stages, the rows (image * N + query) for the keypoint stages;
                light variant only. None runs them all.
        """
        boxes = self.initial_boxes(image_sizes)
        queries = self.instance_queries.weight.expand(len(boxes), -1, -1)
        if self.light:
            return self._forward_light(features, boxes, queries, select)
        if select is not None:
            raise ValueError("the full variant's box stages need the keypoint stages of every query")
        return self._forward_full(features, boxes, queries)

    def initial_boxes(self, image_sizes: Tensor) -> Tensor:
        """The learnable boxes, (cx, cy, w, h) as fractions of the image, as corners in pixels (B, N, 4)."""
        center, size = self.proposal_boxes.weight.split(2, dim=1)
        corners = torch.cat([center - size / 2, center + size / 2], dim=1)
        return corners[None] * image_sizes.repeat(1, 2)[:, None]

    def _forward_full(self, features: list[Tensor], boxes: Tensor, queries: Tensor) -> DecoderOutput:
        batch, number, dim = queries.shape
        rows = torch.arange(batch * number, device=boxes.device)
        part_queries = self.part_queries.weight.expand(len(rows), -1, -1)
        output = DecoderOutput([], [], rows, [], [])
        for box_stage, keypoint_stage in zip(self.box_stages, self.keypoint_stages, strict=True):
            logits, refined, queries = box_stage(features, boxes, queries)
            boxes = refined.detach()
            coordinates, sigmas, flat_queries, part_queries = keypoint_stage(
                features[0], boxes.flatten(0, 1), rows // number, queries.flatten(0, 1), part_queries
            )
            queries = flat_queries.view(batch, number, dim)
            output.logits.append(logits)
            output.boxes.append(refined)
            output.coordinates.append(coordinates)
            output.sigmas.append(sigmas)
        return output

    def _forward_light(self, features: list[Tensor], boxes: Tensor, queries: Tensor, select) -> DecoderOutput:
        batch, number, _ = queries.shape
        output = DecoderOutput([], [], torch.arange(batch * number, device=boxes.device), [], [])
        stage_queries = []
        for box_stage in self.box_stages:
            logits, refined, queries = box_stage(features, boxes, queries)
            boxes = refined.detach()
            output.logits.append(logits)
            output.boxes.append(refined)
            stage_queries.append(queries)

        if select is not None:
            output.rows = select(output.logits, output.boxes)
        rows = output.rows
        part_queries = self.part_queries.weight.expand(len(rows), -1, -1)
        for keypoint_stage, refined, queries in zip(self.keypoint_stages, output.boxes, stage_queries, strict=True):
            coordinates, sigmas, _, part_queries = keypoint_stage(
                features[0],
                refined.detach().flatten(0, 1)[rows],
                rows // number,
                queries.flatten(0, 1)[rows],
                part_queries,
            )
            output.coordinates.append(coordinates)
            output.sigmas.append(sigmas)
        return output


def _xavier_uniform(parameter: Tensor) -> None:
    """Xavier for one matrix, or for each matrix of a stack (part heads keep theirs in three dimensions)."""
    matrices = parameter if parameter.dim() == 3 else [parameter]
    for matrix in matrices:
        nn.init.xavier_uniform_(matrix)
