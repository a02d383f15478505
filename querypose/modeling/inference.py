"""From the decoder's outputs to persons (Section 3.4, Testing)."""

import logging

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor, nn

from querypose.errors import UserError
from querypose.modeling.decoder import BoxOutput, KeypointOutput
from querypose.modeling.losses.keypoint_loss import keypoints_in_pixels

logger = logging.getLogger(__name__)


def poses(boxes: BoxOutput, keypoints: KeypointOutput) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, scores, keypoints and their sigmas of the R rows of the last stage, in pixels of the network's input.

    A keypoint's confidence is the mean over x and y of 1 - sigma; a person's score is its class probability times the
    mean confidence of its keypoints, so that it is at most the class probability.

    Returns:
        boxes (R, 4), corners; scores (R,); keypoints (R, K, 3): x, y and confidence; sigmas (R, K, 2) of x and y,
        0 from heads without sigma.
    """
    corners = boxes.boxes[-1].flatten(0, 1)[keypoints.rows]
    probability = boxes.logits[-1].float().flatten()[keypoints.rows].sigmoid()
    confidence = (1 - keypoints.sigmas[-1]).mean(dim=-1)
    points = torch.cat([keypoints_in_pixels(keypoints.coordinates[-1], corners), confidence[..., None]], dim=-1)
    sigmas = keypoints.sigmas[-1] * (corners[:, 2:] - corners[:, :2])[:, None]
    return corners, probability * confidence.mean(dim=-1), points, sigmas


def finite_persons(persons: Instances, model: nn.Module, name: str) -> Instances:
    """The persons of an image whose boxes and keypoints are finite; a warning counts the others.

    Raises:
        UserError: the model's weights are not finite.
    """
    numbers = torch.cat([persons.pred_boxes.tensor, persons.pred_keypoints.flatten(1)], dim=1)
    finite = numbers.isfinite().all(dim=1)
    if finite.all():
        return persons
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise UserError(
            "MODEL.WEIGHTS holds numbers that are not finite, perhaps of a run that diverged; give other weights"
        )
    logger.warning("%s: left out %d persons with coordinates that are not finite", name, int((~finite).sum()))
    return persons[finite]


def rescaled(persons: Instances, height: int, width: int) -> Instances:
    """Detectron2's `detector_postprocess` to an image of that size, for the fields that it does not know, too."""
    scale_x, scale_y = width / persons.image_size[1], height / persons.image_size[0]
    if persons.has("pred_keypoint_sigmas"):
        sigmas = persons.pred_keypoint_sigmas
        persons.pred_keypoint_sigmas = sigmas * sigmas.new_tensor([scale_x, scale_y])
    if persons.has("attention_boxes"):
        persons.attention_boxes.scale(scale_x, scale_y)
    return detector_postprocess(persons, height, width)
