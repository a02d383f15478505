"""RoIAlign on a CPU against torchvision's, at boxes inside, across the edges, outside, and of no size."""

import pytest
import torch
import torchvision
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from querypose.modeling.ops.pyramid_pooling import pool_every_level, pool_own_level, poolable, roi_align

# (width, height) of the maps is 20, 12 at a quarter of the pixels
ROIS = torch.tensor(
    [
        [0, 4.0, 8, 44, 40],
        [1, -30, -20, 30, 25],
        [1, 60, 30, 100, 70],
        [0, 500, 500, 600, 700],
        [0, -90, 10, -50, 30],
        [1, 20, 20, 20, 20],
        [1, 30, 30, 10, 15],
        [0, 0, 0, 80, 48],
        [0, -1e6, -1e6, 1e6, 1e6],
        [1, 79.5, 47.5, 81, 49],
        [0, 3.1, 2.7, 4.4, 3.3],
    ]
)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("size", "ratio"), [((7, 7), 2), ((5, 3), 1), ((2, 4), 3)])
def test_values_and_gradients_are_torchvision_s(layout, size, ratio):
    torch.manual_seed(0)
    feature = torch.randn(2, 6, 12, 20).contiguous(memory_format=layout).requires_grad_()
    other = feature.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    ours = roi_align(feature, ROIS, size, 0.25, ratio)
    wanted = torchvision.ops.roi_align(other, ROIS, size, 0.25, ratio, aligned=True)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=2e-6)
    assert wanted[3].eq(0).all() and wanted[0].ne(0).all()
    assert ours.is_contiguous(memory_format=layout)
    weights = torch.randn_like(wanted)
    (ours * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(feature.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_no_box_at_all():
    feature = torch.randn(1, 4, 12, 20, requires_grad=True)
    regions = roi_align(feature, ROIS[:0], (7, 7), 0.25, 2)
    assert regions.shape == (0, 4, 7, 7)
    regions.sum().backward()
    assert feature.grad.eq(0).all()


@pytest.mark.parametrize("largest", [60.0, 900.0])
def test_a_pyramid_is_read_as_detectron2_does(largest):
    torch.manual_seed(0)
    strides = (4, 8, 16, 32)
    pooler = ROIPooler(7, [1 / stride for stride in strides], sampling_ratio=2, pooler_type="ROIAlignV2")
    features = [torch.randn(2, 8, 1024 // stride, 1024 // stride) for stride in strides]
    low = 100 * torch.rand(2, 40, 2)
    boxes = torch.cat([low, low + largest * torch.rand(2, 40, 2) ** 2], dim=2)
    boxes[0, 0] = torch.nan
    # squares of no size, at each level's limit (112, 224, 448 pixels) and just below it
    sides = torch.tensor([0.0, 112, 224, 448, 896, 111.99, 223.99, 447.99])
    boxes[1, :8, 2:] = boxes[1, :8, :2].round_() + sides[:, None]
    wanted = pooler(features, [Boxes(image_boxes) for image_boxes in poolable(boxes)])
    for pool in (pool_every_level, pool_own_level):
        torch.testing.assert_close(pool(pooler, features, boxes), wanted, rtol=1e-5, atol=2e-5)
