"""The set losses of every stage (Section 3.4): focal, L1, GIoU and keypoints."""

import torch
from detectron2.config import configurable
from detectron2.utils import comm
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from querypose.modeling.auxiliary_heatmap import AuxiliaryHeatmap
from querypose.modeling.decoder import DecoderOutput
from querypose.modeling.flow import RealNVP
from querypose.modeling.matcher import HungarianMatcher, Match
from querypose.modeling.rle import keypoints_in_box_units, residual_log_likelihood_loss
from querypose.modeling.targets import Targets


class SetCriterion(nn.Module):
    """Weighs and sums the losses of matched queries; every query has the class loss (deep supervision)."""

    @configurable
    def __init__(
        self,
        *,
        matcher: nn.Module,
        flow: nn.Module,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        keypoint_weight: float = 1.0,
        auxiliary_heatmap: nn.Module | None = None,
        heatmap_weight: float = 1.0,
    ):
        """
        Args:
            matcher: assigns persons to queries.
            flow: density of the keypoint errors.
            auxiliary_heatmap: (P2, keypoints) -> loss, or None for none.
        """
        super().__init__()
        self.matcher = matcher
        self.flow = flow
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.keypoint_weight = keypoint_weight
        self.auxiliary_heatmap = auxiliary_heatmap
        self.heatmap_weight = heatmap_weight

    @classmethod
    def from_config(cls, cfg, num_keypoints: int, stride: int):
        config = cfg.MODEL.QUERYPOSE
        flow = RealNVP()
        if config.INITIALIZATION == "deliberate":
            flow.init_weights()
        return {
            "matcher": HungarianMatcher(config.COST.CLASS, config.COST.L1, config.COST.GIOU),
            "flow": flow,
            "class_weight": config.LOSS.CLASS_WEIGHT,
            "l1_weight": config.LOSS.L1_WEIGHT,
            "giou_weight": config.LOSS.GIOU_WEIGHT,
            "keypoint_weight": config.LOSS.KEYPOINT_WEIGHT,
            "auxiliary_heatmap": AuxiliaryHeatmap(config.HIDDEN_DIM, num_keypoints, stride)
            if config.AUX_HEATMAP
            else None,
            "heatmap_weight": config.LOSS.HEATMAP_WEIGHT,
        }

    def forward(
        self, output: DecoderOutput, targets: Targets, matches: list[Match], feature: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted losses of the decoder's output: `loss_class`, `loss_l1`, `loss_giou`, `loss_keypoint` of the last
        stage and the same with `_0`, `_1` .. for the stages before it; with the auxiliary heatmap also
        `loss_heatmap` of P2, the `feature` map (B, d, H, W)."""
        num_persons = self.normalizer(targets)
        position = torch.full((output.logits[0].shape[:2].numel(),), -1, device=output.rows.device)
        position[output.rows] = torch.arange(len(output.rows), device=output.rows.device)

        losses = {}
        last = len(output.logits) - 1
        for stage, match in enumerate(matches):
            boxes = output.boxes[stage].flatten(0, 1)[match.rows]
            at = position[match.rows]
            keypoint_loss = keypoint_stage_loss(
                output.coordinates[stage],
                output.sigmas[stage],
                at,
                boxes.detach(),
                targets.keypoints.flatten(0, 1)[match.persons],
                self.flow,
            )
            l1_loss, giou_loss = box_losses(boxes, match, targets, num_queries=output.logits[stage].shape[1])
            stage_losses = {
                "loss_class": self.class_weight * class_loss(output.logits[stage], match) / num_persons,
                "loss_l1": self.l1_weight * l1_loss / num_persons,
                "loss_giou": self.giou_weight * giou_loss / num_persons,
                "loss_keypoint": self.keypoint_weight * keypoint_loss / (num_persons * targets.keypoints.shape[2]),
            }
            suffix = "" if stage == last else f"_{stage}"
            losses.update({name + suffix: value for name, value in stage_losses.items()})
        if self.auxiliary_heatmap is not None:
            heatmap_loss = self.auxiliary_heatmap(feature, targets.keypoints)
            losses["loss_heatmap"] = self.heatmap_weight * heatmap_loss
        return losses

    @staticmethod
    def normalizer(targets: Targets) -> Tensor:
        """Persons in the batch, averaged over the processes, at least one."""
        count = torch.tensor(float(sum(targets.counts)), device=targets.boxes.device)
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(count)
        return (count / comm.get_world_size()).clamp(min=1.0)


def class_loss(logits: Tensor, match: Match) -> Tensor:
    """Sum of the focal loss (alpha 0.25, gamma 2) of logits (B, N, 1), the matched rows being persons."""
    labels = torch.zeros_like(logits, dtype=torch.float32).flatten()
    labels[match.rows] = 1.0
    return sigmoid_focal_loss(logits.flatten().float(), labels, alpha=0.25, gamma=2.0, reduction="sum")


def box_losses(boxes: Tensor, match: Match, targets: Targets, num_queries: int) -> tuple[Tensor, Tensor]:
    """Sums of L1 (corners over image size) and of GIoU loss of the matched boxes (n, 4) in pixels."""
    scale = targets.box_scale[match.rows // num_queries]
    wanted = targets.boxes.flatten(0, 1)[match.persons]
    l1_loss = (boxes / scale - wanted / scale).abs().sum()
    return l1_loss, generalized_box_iou_loss(boxes, wanted, reduction="sum")


def keypoint_stage_loss(
    coordinates: Tensor, sigmas: Tensor, at: Tensor, boxes: Tensor, keypoints: Tensor, flow: nn.Module
) -> Tensor:
    """Sum of the keypoint loss of one stage's matched persons.

    Args:
        coordinates, sigmas: (R, K, 2) of all rows, in box units.
        at: (n,) which of them are matched. boxes: (n, 4) their predicted boxes in pixels, detached.
        keypoints: (n, K, 3) of the matched persons, pixels and visibility.
    """
    wanted, valid = keypoints_in_box_units(keypoints, boxes)
    # without a match the sum is empty, but the parameters still belong to its graph, as distributed training expects
    return residual_log_likelihood_loss(coordinates[at], sigmas[at], wanted, valid, flow)
