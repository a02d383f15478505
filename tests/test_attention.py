"""Attention of the persons that inference returns (Figure 5)."""

import pytest
import torch
from tiny_model import NUM_QUERIES, spread, tiny_batch, tiny_model

from querypose.errors import UserError
from querypose.modeling.losses.keypoint_loss import keypoints_in_pixels


@torch.no_grad()
@pytest.mark.parametrize("opts", [("full",), ("light",), ("light", "MODEL.QUERYPOSE.TEST.TOPK_POSES", 3)])
def test_the_same_persons_with_their_own_attention(opts):
    model = spread(tiny_model(*opts)).eval()
    inputs = tiny_batch()
    for entry in inputs:
        entry |= {"height": 2 * entry["image"].shape[1], "width": entry["image"].shape[2]}
    plain, found = model(inputs), model.with_attention(inputs, stage=0)
    boxes, output = model.decode(*model.extract(model.preprocess(inputs)))
    for image, (ours, theirs) in enumerate(zip(found, plain, strict=True)):
        ours, theirs = ours["instances"], theirs["instances"]
        torch.testing.assert_close(ours.pred_keypoints, theirs.pred_keypoints)
        torch.testing.assert_close(ours.scores, theirs.scores)
        torch.testing.assert_close(ours.part_attention.sum(dim=(2, 3)), torch.ones(len(ours), 7))
        # the row of each person, by its keypoints in the last stage
        scale = torch.tensor([1.0, 2.0, 1.0, 2.0])
        first, last = (stage.flatten(0, 1)[output.rows] * scale for stage in boxes.boxes)
        keypoints = keypoints_in_pixels(output.coordinates[1], last)
        keypoints[output.rows // NUM_QUERIES != image] = torch.inf
        for person, maps, box in zip(ours.pred_keypoints, ours.part_attention, ours.attention_boxes, strict=True):
            row = (keypoints - person[:, :2]).abs().sum(dim=(1, 2)).argmin()
            torch.testing.assert_close(maps, output.attention[0][row])
            torch.testing.assert_close(box, first[row])


def test_models_without_attention_say_so():
    model = tiny_model("full", "MODEL.QUERYPOSE.PART_EMBEDDING", "PartSelfAttention").eval()
    for stage, reason in ((-1, "makes no attention maps"), (2, "has 2 stages, so there is none with index 2")):
        with torch.no_grad(), pytest.raises(UserError, match=reason):
            model.with_attention(tiny_batch(), stage)
