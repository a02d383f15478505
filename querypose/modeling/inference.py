"""From the decoder's outputs to persons (Section 3.4, Testing)."""

import torch
from torch import Tensor

from querypose.modeling.decoder import BoxOutput, KeypointOutput
from querypose.modeling.losses.rle import keypoints_in_pixels


def poses(boxes: BoxOutput, keypoints: KeypointOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and keypoints of the R rows of the last stage, in pixels of the network's input.

    A keypoint's confidence is the mean over x and y of 1 - sigma; a person's score is its class probability times the
    mean confidence of its keypoints, so that it is at most the class probability.

    Returns:
        boxes (R, 4), corners; scores (R,); keypoints (R, K, 3): x, y and confidence.
    """
    corners = boxes.boxes[-1].flatten(0, 1)[keypoints.rows]
    probability = boxes.logits[-1].float().flatten()[keypoints.rows].sigmoid()
    confidence = (1 - keypoints.sigmas[-1]).mean(dim=-1)
    points = torch.cat([keypoints_in_pixels(keypoints.coordinates[-1], corners), confidence[..., None]], dim=-1)
    return corners, probability * confidence.mean(dim=-1), points
