"""The sigmas of keypoints: which models lack them, and their ellipses; test_meta_arch.py has their formula."""

import numpy as np
import pytest
import torch
from tiny_model import spread, tiny_batch, tiny_model

from querypose.errors import UserError
from querypose.skeleton import Skeleton
from querypose.visualization.draw_poses import draw_poses


@torch.no_grad()
@pytest.mark.parametrize("variant", ["light", "full", "branched"])
def test_models_whose_loss_uses_no_sigmas_have_none(variant):
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
