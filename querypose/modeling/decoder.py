"""The cascade of box stages and keypoint stages over learnable queries (Section 3.1, Figures 2 and 3b)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.config import configurable
from torch import Tensor, nn

from querypose.modeling.box_stage import BoxStage
from querypose.modeling.keypoint_stage import KEYPOINT_STAGE_REGISTRY

# Logits and boxes of the stages so far -> rows for the keypoint stages, and how many of the first of them each of the
# S stages needs, none more than the stage before it; None: every stage needs them all.
Select = Callable[[list[Tensor], list[Tensor]], tuple[Tensor, list[int] | None]]


@dataclass
class DecoderOutput:
    """What every stage predicts.

    logits: S tensors (B, N, 1). boxes: S tensors (B, N, 4), corners in pixels of the network's input.
    rows: (R,) the queries that the following are of, as image * N + query: those that went through the keypoint stages
    (full variant: through the last one; where one was left out of a stage before it, its values there are NaN).
    coordinates, sigmas: S tensors (R, K, 2) in units of the stage's box, its centre at 0.
    attention: S tensors (R, M, H', W') over the stage's box, or None where the part embedding has none.
    Where `select` has given a number of rows for a stage, the stage's tensors are of that many, the first of the rows.
    """

    logits: list[Tensor]
    boxes: list[Tensor]
    rows: Tensor
    coordinates: list[Tensor]
    sigmas: list[Tensor]
    attention: list[Tensor | None]


class QueryPoseDecoder(nn.Module):
    """Holds the queries and runs them through S pairs of a box stage and a keypoint stage.

    Full variant: keypoint stage s hands its instance queries to box stage s + 1 (Figure 3b), so that the stages
    alternate. Light variant: boxes do not depend on keypoint stages, so that all box stages run first and the
    keypoint stages only for the rows that the caller selects. So in the branched variant (Figure 3a), whose keypoint
    stages update the instance queries for their own use.

    Part queries belong to a query, not to a person: a query goes on with its own from stage to stage, whomever the
    stages match it to.
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
            num_queries: N; num_parts: M, 0 for keypoint stages without part queries; dim: d; part_dim: dp.
            light: whether the box stages go without the instance queries of the keypoint stages.
            initialization: "deliberate" or "authors", see `init_weights`.
        """
        super().__init__()
        self.box_stages = nn.ModuleList(box_stages)
        self.keypoint_stages = nn.ModuleList(keypoint_stages)
        self.proposal_boxes = nn.Embedding(num_queries, 4)
        self.instance_queries = nn.Embedding(num_queries, dim)
        self.part_queries = nn.Embedding(num_parts, part_dim) if num_parts else None
        self.light = light
        self.init_weights(initialization)

    @classmethod
    def from_config(cls, cfg, part_of_keypoint: list[int], feature_strides: list[int]):
        config = cfg.MODEL.QUERYPOSE
        stages = range(config.NUM_STAGES)
        keypoint_stage = KEYPOINT_STAGE_REGISTRY.get(config.KEYPOINT_STAGE)
        return {
            "box_stages": [BoxStage(cfg, feature_strides) for _ in stages],
            "keypoint_stages": [keypoint_stage(cfg, part_of_keypoint, feature_strides[0]) for _ in stages],
            "num_queries": config.NUM_QUERIES,
            "num_parts": max(part_of_keypoint) + 1 if keypoint_stage.has_parts else 0,
            "dim": config.HIDDEN_DIM,
            "part_dim": config.PART_DIM,
            "light": config.VARIANT != "full",
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
            for stage in [*self.box_stages, *self.keypoint_stages]:
                for part in stage.children():
                    if hasattr(part, "init_weights"):
                        part.init_weights()

    def forward(
        self,
        features: list[Tensor],
        image_sizes: Tensor,
        select: Select | None = None,
        track: Select | None = None,
    ) -> DecoderOutput:
        """
        Args:
            features: feature maps (B, d, H_l, W_l), finest first.
            image_sizes: (B, 2) width and height of each image without padding, in pixels.
            select: from the logits and boxes of the stages so far, the rows (image * N + query, none twice) for the
                keypoint stages; None runs them all. Light, branched: asked once, after all box stages, and the rows'
                results are what they would be among all. Full variant: asked in every stage, without numbers; a query
                that is left out keeps the instance query of its box stage and its part queries, which is an
                approximation.
            track: full variant, training: asked in every stage as `select` is, but every query goes through the
                keypoint stage; only the given rows carry gradients through it. What is computed is the same as without,
                and as in inference.
        """
        boxes = self.initial_boxes(image_sizes)
        queries = self.instance_queries.weight.expand(boxes.shape[0], -1, -1)
        if self.light:
            return self._forward_light(features, boxes, queries, select)
        return self._forward_full(features, boxes, queries, select, track)

    def initial_boxes(self, image_sizes: Tensor) -> Tensor:
        """The learnable boxes, (cx, cy, w, h) as fractions of the image, as corners in pixels (B, N, 4)."""
        center, size = self.proposal_boxes.weight.split(2, dim=1)
        corners = torch.cat([center - size / 2, center + size / 2], dim=1)
        return corners[None] * image_sizes.repeat(1, 2)[:, None]

    def initial_part_queries(self, number: int) -> Tensor | None:
        """The learnable part queries (number, M, dp), the same for every person; None where there are none."""
        return None if self.part_queries is None else self.part_queries.weight.expand(number, -1, -1)

    def _forward_full(self, features: list[Tensor], boxes: Tensor, queries: Tensor, select, track) -> DecoderOutput:
        batch, number, dim = queries.shape
        everyone = torch.arange(batch * number, device=boxes.device)
        part_queries = self.initial_part_queries(batch * number)
        output = DecoderOutput([], [], everyone, [], [], [])
        for box_stage, keypoint_stage in zip(self.box_stages, self.keypoint_stages, strict=True):
            logits, refined, queries = box_stage(features, boxes, queries)
            boxes = refined.detach()
            output.logits.append(logits)
            output.boxes.append(refined)
            inputs = (boxes.flatten(0, 1), everyone // number, queries.flatten(0, 1), part_queries)
            if select is not None:
                output.rows, _ = select(output.logits, output.boxes)
                results = _of_rows(keypoint_stage, features[0], inputs, output.rows)
            elif track is not None:
                rows, _ = track(output.logits, output.boxes)
                results = _with_gradients_of(keypoint_stage, features[0], inputs, rows)
            else:
                results = keypoint_stage(features[0], *inputs)
            coordinates, sigmas, flat_queries, part_queries, attention = results
            queries = flat_queries.view(batch, number, dim)
            output.coordinates.append(coordinates)
            output.sigmas.append(sigmas)
            output.attention.append(attention)
        if select is not None:
            for kind in (output.coordinates, output.sigmas, output.attention):
                kind[:] = [None if values is None else values[output.rows] for values in kind]
        return output

    def _forward_light(self, features: list[Tensor], boxes: Tensor, queries: Tensor, select) -> DecoderOutput:
        batch, number, _ = queries.shape
        output = DecoderOutput([], [], torch.arange(batch * number, device=boxes.device), [], [], [])
        stage_queries = []
        for box_stage in self.box_stages:
            logits, refined, queries = box_stage(features, boxes, queries)
            boxes = refined.detach()
            output.logits.append(logits)
            output.boxes.append(refined)
            stage_queries.append(queries)

        needed = None
        if select is not None:
            output.rows, needed = select(output.logits, output.boxes)
        part_queries = self.initial_part_queries(output.rows.shape[0])
        for stage, keypoint_stage in enumerate(self.keypoint_stages):
            rows = output.rows if needed is None else output.rows[: needed[stage]]
            coordinates, sigmas, _, part_queries, attention = keypoint_stage(
                features[0],
                output.boxes[stage].detach().flatten(0, 1)[rows],
                rows // number,
                stage_queries[stage].flatten(0, 1)[rows],
                None if part_queries is None else part_queries[: rows.shape[0]],
            )
            output.coordinates.append(coordinates)
            output.sigmas.append(sigmas)
            output.attention.append(attention)
        return output


def _take(inputs: tuple[Tensor | None, ...], rows: Tensor) -> tuple[Tensor | None, ...]:
    """Some rows of every input; a stage without part queries has None for them."""
    return tuple(None if values is None else values[rows] for values in inputs)


def _of_rows(stage: nn.Module, feature: Tensor, inputs: tuple[Tensor, ...], rows: Tensor) -> tuple:
    """A keypoint stage for some rows. The other rows keep their queries; what the stage predicts for them is NaN."""
    coordinates, sigmas, *queries, attention = stage(feature, *_take(inputs, rows))
    number = len(inputs[0])

    def with_nan(values):
        return values.new_full((number, *values.shape[1:]), math.nan).index_copy(0, rows, values)

    queries = [
        None if new is None else old.index_copy(0, rows, new.to(old))
        for old, new in zip(inputs[2:], queries, strict=True)
    ]
    return with_nan(coordinates), with_nan(sigmas), *queries, None if attention is None else with_nan(attention)


def _with_gradients_of(stage: nn.Module, feature: Tensor, inputs: tuple[Tensor, ...], rows: Tensor) -> tuple:
    """A keypoint stage for all rows, with a graph for some; of equal numbers, as rows do not see each other."""
    other = torch.ones(len(inputs[0]), dtype=torch.bool, device=rows.device).index_fill(0, rows, False)
    # sorting puts the others behind without asking the device how many they are
    others = other.to(torch.uint8).argsort(stable=True)[len(rows) :]
    back = torch.cat([rows, others]).argsort()
    with torch.no_grad():
        rest = stage(feature, *_take(inputs, others))
    tracked = stage(feature, *_take(inputs, rows))
    return tuple(
        None if mine is None else torch.cat([mine, theirs])[back] for mine, theirs in zip(tracked, rest, strict=True)
    )


def _xavier_uniform(parameter: Tensor) -> None:
    """Xavier for one matrix, or for each matrix of a stack (part heads keep theirs in three dimensions)."""
    matrices = parameter if parameter.dim() == 3 else [parameter]
    for matrix in matrices:
        nn.init.xavier_uniform_(matrix)
