"""The set losses of every stage (Section 3.4): focal, L1, GIoU and keypoints."""

from collections.abc import Callable

import torch
from detectron2.config import configurable
from detectron2.utils import comm
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from querypose.modeling.decoder import DecoderOutput
from querypose.modeling.losses.auxiliary_attention import attention_loss
from querypose.modeling.losses.auxiliary_heatmap import AuxiliaryHeatmap
from querypose.modeling.losses.flow import RealNVP
from querypose.modeling.losses.keypoint_loss import KEYPOINT_LOSS_REGISTRY
from querypose.modeling.losses.matcher import HungarianMatcher, Match
from querypose.modeling.losses.rle import keypoints_in_box_units, residual_log_likelihood_loss
from querypose.modeling.losses.targets import Targets


class SetCriterion(nn.Module):
    """Weighs and sums the losses of matched queries; every query has the class loss (deep supervision)."""

    @configurable
    def __init__(
        self,
        *,
        matcher: nn.Module,
        flow: nn.Module | None,
        keypoint_loss: Callable[..., Tensor] = residual_log_likelihood_loss,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        keypoint_weight: float = 1.0,
        auxiliary_heatmap: nn.Module | None = None,
        heatmap_weight: float = 1.0,
        attention_weight: float = 0.0,
        part_of_keypoint: list[int] | None = None,
    ):
        """
        Args:
            matcher: assigns persons to queries.
            flow: density of the keypoint errors, or None for a loss without it.
            keypoint_loss: as KEYPOINT_LOSS_REGISTRY states.
            auxiliary_heatmap: (P2, keypoints) -> loss, or None for none.
            attention_weight: of the auxiliary loss on attention maps, which needs `part_of_keypoint`; 0 leaves it out.
        """
        super().__init__()
        self.matcher = matcher
        self.flow = flow
        self.keypoint_loss = keypoint_loss
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.keypoint_weight = keypoint_weight
        self.auxiliary_heatmap = auxiliary_heatmap
        self.heatmap_weight = heatmap_weight
        self.attention_weight = attention_weight
        # a tensor on the device: a list would be sent there at every step
        part_of_keypoint = None if part_of_keypoint is None else torch.tensor(part_of_keypoint)
        self.register_buffer("part_of_keypoint", part_of_keypoint, persistent=False)

    @classmethod
    def from_config(cls, cfg, part_of_keypoint: list[int], stride: int):
        config = cfg.MODEL.QUERYPOSE
        keypoint_loss = KEYPOINT_LOSS_REGISTRY.get(config.KEYPOINT_LOSS)(cfg)
        flow = RealNVP() if keypoint_loss.uses_flow else None
        if flow is not None and config.INITIALIZATION == "deliberate":
            flow.init_weights()
        return {
            "matcher": HungarianMatcher(config.LOSS.CLASS_WEIGHT, config.LOSS.L1_WEIGHT, config.LOSS.GIOU_WEIGHT),
            "flow": flow,
            "keypoint_loss": keypoint_loss,
            "class_weight": config.LOSS.CLASS_WEIGHT,
            "l1_weight": config.LOSS.L1_WEIGHT,
            "giou_weight": config.LOSS.GIOU_WEIGHT,
            "keypoint_weight": config.LOSS.KEYPOINT_WEIGHT,
            "auxiliary_heatmap": AuxiliaryHeatmap(config.HIDDEN_DIM, len(part_of_keypoint), stride)
            if config.LOSS.HEATMAP_WEIGHT > 0
            else None,
            "heatmap_weight": config.LOSS.HEATMAP_WEIGHT,
            "attention_weight": config.LOSS.ATTENTION_WEIGHT,
            "part_of_keypoint": part_of_keypoint,
        }

    def forward(
        self,
        output: DecoderOutput,
        targets: Targets,
        matches: list[Match],
        feature: Tensor | None = None,
        num_persons: int | None = None,
        num_keypoints: int | None = None,
    ) -> dict[str, Tensor]:
        """Weighted losses of the decoder's output: `loss_class`, `loss_l1`, `loss_giou`, `loss_keypoint` of the last
        stage and the same with `_0`, `_1` .. for the stages before it; with the auxiliary heatmap also
        `loss_heatmap` of P2, the `feature` map (B, d, H, W); with that on attention `loss_attention` of every stage.

        Each is a sum over the batch, divided by its persons as `normalizer` counts them, that of the heatmap by its
        keypoints with a label. Where the batch is one of several parts of a larger one, `num_persons` and
        `num_keypoints` are the larger one's: the losses of the parts then add up to its losses.
        """
        num_persons = self.normalizer(targets, num_persons)
        position = torch.full((output.logits[0].shape[:2].numel(),), -1, device=output.rows.device)
        position[output.rows] = torch.arange(len(output.rows), device=output.rows.device)

        losses = {}
        last = len(output.logits) - 1
        for stage, match in enumerate(matches):
            boxes = output.boxes[stage].flatten(0, 1)[match.rows]
            at = position[match.rows]
            wanted, valid = keypoints_in_box_units(targets.keypoints.flatten(0, 1)[match.persons], boxes.detach())
            # without a match the sum is empty, but the parameters still belong to its graph, as distributed training
            # expects
            keypoint_loss = self.keypoint_loss(
                output.coordinates[stage][at], output.sigmas[stage][at], wanted, valid, self.flow
            )
            l1_loss, giou_loss = box_losses(boxes, match, targets, num_queries=output.logits[stage].shape[1])
            stage_losses = {
                "loss_class": self.class_weight * class_loss(output.logits[stage], match) / num_persons,
                "loss_l1": self.l1_weight * l1_loss / num_persons,
                "loss_giou": self.giou_weight * giou_loss / num_persons,
                "loss_keypoint": self.keypoint_weight * keypoint_loss / (num_persons * valid.shape[1]),
            }
            if self.attention_weight:
                value = attention_loss(output.attention[stage][at], wanted, valid, self.part_of_keypoint)
                stage_losses["loss_attention"] = self.attention_weight * value / (num_persons * valid.shape[1])
            suffix = "" if stage == last else f"_{stage}"
            losses.update({name + suffix: value for name, value in stage_losses.items()})
        if self.auxiliary_heatmap is not None:
            labelled = (targets.keypoints[..., 2] > 0).sum() if num_keypoints is None else num_keypoints
            heatmap_loss = self.auxiliary_heatmap(feature, targets.keypoints)
            number = averaged_over_processes(labelled, targets.boxes.device)
            losses["loss_heatmap"] = self.heatmap_weight * heatmap_loss / number
        return losses

    @staticmethod
    def normalizer(targets: Targets, num_persons: int | None = None) -> Tensor:
        """Persons in the batch (or the given number), averaged over the processes, at least one."""
        number = sum(targets.counts) if num_persons is None else num_persons
        return averaged_over_processes(number, targets.boxes.device)


def averaged_over_processes(number: int | Tensor, device: torch.device) -> Tensor:
    """The mean of the processes' numbers, at least one.

    Data-parallel training averages gradients: sums divided by it give the gradient of a single process.
    """
    # a number is filled in on the device: sent there, it would make the host wait
    count = number.float() if isinstance(number, Tensor) else torch.full((), float(number), device=device)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(count)
    return (count / comm.get_world_size()).clamp(min=1.0)


def class_loss(logits: Tensor, match: Match) -> Tensor:
    """Sum of the focal loss (alpha 0.25, gamma 2) of logits (B, N, 1), the matched rows being persons."""
    labels = torch.zeros_like(logits, dtype=torch.float32).flatten()
    labels.index_fill_(0, match.rows, 1.0)
    return sigmoid_focal_loss(logits.flatten().float(), labels, alpha=0.25, gamma=2.0, reduction="sum")


def box_losses(boxes: Tensor, match: Match, targets: Targets, num_queries: int) -> tuple[Tensor, Tensor]:
    """Sums of L1 (corners over image size) and of GIoU loss of the matched boxes (n, 4) in pixels."""
    scale = targets.box_scale[match.rows // num_queries]
    wanted = targets.boxes.flatten(0, 1)[match.persons]
    l1_loss = (boxes / scale - wanted / scale).abs().sum()
    return l1_loss, giou_loss(boxes, wanted).sum()


def giou_loss(boxes: Tensor, wanted: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - GIoU of pairs of boxes (n, 4), corners -> (n,).

    Equal to torchvision's `generalized_box_iou_loss`, which indexes by a mask, so that a GPU's host waits for it.
    """
    area, wanted_area = ((b[:, 2:] - b[:, :2]).prod(dim=1) for b in (boxes, wanted))
    low, high = torch.maximum(boxes[:, :2], wanted[:, :2]), torch.minimum(boxes[:, 2:], wanted[:, 2:])
    intersection = (high - low).clamp(min=0).prod(dim=1)
    union = area + wanted_area - intersection
    outer_low, outer_high = torch.minimum(boxes[:, :2], wanted[:, :2]), torch.maximum(boxes[:, 2:], wanted[:, 2:])
    outer = (outer_high - outer_low).prod(dim=1)
    return 1 - intersection / (union + eps) + (outer - union) / (outer + eps)
