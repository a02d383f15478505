"""The set losses of every stage (Section 3.4): focal, L1, GIoU and keypoints."""

from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from querypose.modeling.decoder import BoxOutput, KeypointOutput
from querypose.modeling.losses.auxiliary import AuxiliaryHeatmap, attention_loss
from querypose.modeling.losses.keypoint_loss import KEYPOINT_LOSS_REGISTRY, keypoints_in_box_units
from querypose.modeling.losses.matcher import HungarianMatcher, Match, Targets, iou_and_gap


class SetCriterion(nn.Module):
    """Weighs the losses of matched queries; every query has the class loss (deep supervision).

    Each loss is a sum over the batch, divided by the number of its persons (the keypoint losses by K as well), and is
    named `loss_class`, `loss_l1`, .. for the last stage and `loss_class_0`, `loss_class_1`, .. for those before it.
    """

    part_of_keypoint: Tensor

    @configurable
    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        keypoint_loss: nn.Module,
        part_of_keypoint: list[int],
        weights: dict[str, float],
        auxiliary_heatmap: AuxiliaryHeatmap | None = None,
    ):
        """weights: of the losses "class", "l1", "giou", "keypoint", "attention" (0 leaves it out) and "heatmap"."""
        super().__init__()
        self.matcher = matcher
        self.keypoint_loss = keypoint_loss
        self.weights = weights
        self.auxiliary_heatmap = auxiliary_heatmap
        # a tensor on the device: a list would be sent there at every step
        self.register_buffer("part_of_keypoint", torch.tensor(part_of_keypoint), persistent=False)
        # the flow was a child of the criterion in earlier checkpoints
        self.register_load_state_dict_pre_hook(_rename_flow)

    @classmethod
    def from_config(cls, cfg: CfgNode, part_of_keypoint: list[int], stride: int) -> dict[str, Any]:
        config = cfg.MODEL.QUERYPOSE
        weights = {key.removesuffix("_WEIGHT").lower(): weight for key, weight in config.LOSS.items()}
        keypoint_loss = KEYPOINT_LOSS_REGISTRY.get(config.KEYPOINT_LOSS)(cfg)
        heatmap = AuxiliaryHeatmap(config.HIDDEN_DIM, len(part_of_keypoint), stride) if weights["heatmap"] else None
        return {
            "matcher": HungarianMatcher(weights["class"], weights["l1"], weights["giou"]),
            "keypoint_loss": keypoint_loss,
            "part_of_keypoint": part_of_keypoint,
            "weights": weights,
            "auxiliary_heatmap": heatmap,
        }

    def box_losses(
        self, output: BoxOutput, matches: list[Match], targets: Targets, num_persons: Tensor, kind: str = ""
    ) -> dict[str, Tensor]:
        """Class, L1 (corners over image size) and GIoU loss of every stage, named `loss_class{kind}_0`, .."""
        losses = {}
        for stage, match in enumerate(matches):
            boxes, wanted = output.boxes[stage].flatten(0, 1)[match.rows], targets.boxes.flatten(0, 1)[match.persons]
            scale = targets.box_scale[match.rows // output.logits[stage].shape[1]]
            l1_loss = (boxes / scale - wanted / scale).abs().sum()
            # torchvision's GIoU loss indexes by a mask, so that a GPU's host waits for it
            iou, gap = iou_and_gap(boxes, wanted)
            suffix = kind + _suffix(stage, len(matches))
            focal = class_loss(output.logits[stage], match)
            losses["loss_class" + suffix] = self.weights["class"] * focal / num_persons
            losses["loss_l1" + suffix] = self.weights["l1"] * l1_loss / num_persons
            losses["loss_giou" + suffix] = self.weights["giou"] * (1 - iou + gap).sum() / num_persons
        return losses

    def keypoint_losses(
        self,
        output: KeypointOutput,
        boxes: BoxOutput,
        matches: list[Match],
        targets: Targets,
        number: Tensor,
        kind: str = "",
    ) -> dict[str, Tensor]:
        """Keypoint loss, and with a weight attention loss, of every stage's matched queries, divided by `number`.

        Without a match the sums are empty, but every parameter is in their graph, as distributed training expects.
        """
        losses = {}
        position = torch.full((boxes.boxes[0].shape[:2].numel(),), -1, device=output.rows.device)
        position[output.rows] = torch.arange(len(output.rows), device=output.rows.device)
        for stage, match in enumerate(matches):
            places = boxes.boxes[stage].detach().flatten(0, 1)[match.rows]
            wanted, valid = keypoints_in_box_units(targets.keypoints.flatten(0, 1)[match.persons], places)
            suffix, at = kind + _suffix(stage, len(matches)), position[match.rows]
            loss = self.keypoint_loss(output.coordinates[stage][at], output.sigmas[stage][at], wanted, valid)
            losses["loss_keypoint" + suffix] = self.weights["keypoint"] * loss / valid.shape[1] / number
            if self.weights["attention"]:
                attention = output.attention[stage][at]  # type: ignore[index]
                loss = attention_loss(attention, wanted, valid, self.part_of_keypoint)
                losses["loss_attention" + suffix] = self.weights["attention"] * loss / valid.shape[1] / number
        return losses

    def region_losses(
        self, output: KeypointOutput, match: Match, boxes: Tensor, targets: Targets, num_persons: Tensor, copies: int
    ) -> dict[str, Tensor]:
        """The keypoint losses of `ground_truth_regions`, named `loss_keypoint_region`, .., divided by copies too."""
        # a query may have several regions: they take the place of the queries
        rows, stages = torch.arange(len(boxes), device=boxes.device), len(output.coordinates)
        output, regions = replace(output, rows=rows), BoxOutput([], [boxes[None]] * stages, [])
        matches = [Match(rows, match.persons)] * stages
        return self.keypoint_losses(output, regions, matches, targets, num_persons * copies, "_region")

    def heatmap_loss(self, feature: Tensor, targets: Targets, num_keypoints: int | None = None) -> Tensor:
        """The auxiliary heatmap's loss on P2 (B, d, H, W), divided by the labeled keypoints (or the given number)."""
        number = (targets.keypoints[..., 2] > 0).sum() if num_keypoints is None else num_keypoints
        loss = self.auxiliary_heatmap(feature, targets.keypoints)  # type: ignore[misc]
        return self.weights["heatmap"] * loss / averaged_over_processes(number, targets.boxes.device)


def _suffix(stage: int, num_stages: int) -> str:
    return "" if stage == num_stages - 1 else f"_{stage}"


def _rename_flow(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name in [name for name in state_dict if name.startswith(f"{prefix}flow.")]:
        state_dict[f"{prefix}keypoint_loss.{name[len(prefix) :]}"] = state_dict.pop(name)


def averaged_over_processes(number: int | Tensor, device: torch.device) -> Tensor:
    """The mean of the processes' numbers, at least one: data-parallel training averages gradients."""
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
