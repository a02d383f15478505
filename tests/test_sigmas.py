"""The sigmas of keypoints in pixels: closed forms, rescaling, ellipses."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from tiny_model import spread, tiny_batch, tiny_model

from querypose.errors import UserError
from querypose.modeling.decoder import BoxOutput, KeypointOutput
from querypose.modeling.meta_arch import poses, rescaled
from querypose.skeleton import Skeleton
from querypose.visualization import draw_poses


def test_a_sigma_of_a_tenth_of_a_box():
    """20 and 10 pixels of a box of 200 x 100; four and two times as many in an image enlarged by that."""
    boxes = BoxOutput([torch.zeros(1, 1, 1)], [torch.tensor([[[10.0, 10.0, 210.0, 110.0]]])], [])
    zeros = torch.zeros(1, 3, 2)
    corners, scores, points, sigmas = poses(boxes, KeypointOutput(torch.tensor([0]), [zeros], [zeros + 0.1], [None]))
    torch.testing.assert_close(sigmas, torch.tensor([20.0, 10.0]).expand(1, 3, 2))
    persons = Instances((150, 250), pred_boxes=Boxes(corners), scores=scores, pred_keypoints=points)
    persons.pred_keypoint_sigmas = sigmas
    scaled = rescaled(persons, 300, 1000).pred_keypoint_sigmas
    torch.testing.assert_close(scaled, torch.tensor([80.0, 20.0]).expand(1, 3, 2))


@torch.no_grad()
@pytest.mark.parametrize("variant", ["light", "full", "branched"])
def test_every_variant_has_sigmas_if_its_loss_uses_them(variant):
    (result,) = spread(tiny_model(variant)).eval()(tiny_batch()[:1])
    assert (result["instances"].pred_keypoint_sigmas > 0).all()
    (result,) = spread(tiny_model(variant, "MODEL.QUERYPOSE.KEYPOINT_LOSS", "L1")).eval()(tiny_batch()[:1])
    assert len(result["instances"]) and not result["instances"].has("pred_keypoint_sigmas")


def test_half_axes_of_ellipses():
    skeleton = Skeleton(("tail",), (), (), (0.05,))
    fields = {"pred_keypoints": np.array([[[100.5, 80.5, 1.0]]]), "pred_keypoint_sigmas": np.array([[[20.0, 10.0]]])}
    fields |= {"pred_boxes": np.array([[0.0, 0.0, 9.0, 9.0]]), "scores": np.ones(1)}
    image = np.full((160, 200, 3), 128, np.uint8)
    options = {"show_boxes": False, "show_scores": False, "scale": 1}
    plain = draw_poses(image, fields, skeleton, **options)
    for sigmas, half_axes in ((True, (20, 10)), (2, (40, 20))):
        changed = (draw_poses(image, fields, skeleton, sigmas=sigmas, **options) != plain).any(axis=2)
        rows, columns = np.nonzero(changed)
        extent = [columns.max() - 100, 100 - columns.min(), rows.max() - 80, 80 - rows.min()]
        assert np.abs(np.array(extent) - np.repeat(half_axes, 2)).max() <= 3, "an outline of 3 pixels"
        assert not changed[80, 100]
    del fields["pred_keypoint_sigmas"]
    with pytest.raises(UserError, match="no pred_keypoint_sigmas"):
        draw_poses(image, fields, skeleton, sigmas=True)
