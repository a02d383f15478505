"""The auxiliary heatmap: targets by closed form, the loss by hand."""

import math

import pytest
import torch

from querypose.modeling.losses.auxiliary import gaussian_heatmaps, heatmap_focal_loss


def person(*keypoints):
    return torch.tensor([[list(keypoints)]], dtype=torch.float32)


def test_a_gaussian_stands_where_the_keypoint_is():
    heatmaps = gaussian_heatmaps(person((13.0, 6.0, 2.0), (2.0, 30.0, 1.0)), (10, 8), stride=4, sigma=1.5)
    assert heatmaps.shape == (1, 2, 10, 8)
    assert heatmaps[0, 0, 1, 3] == 1 and heatmaps[0, 1, 7, 0] == 1
    assert heatmaps[0, 0, 3, 4].item() == pytest.approx(math.exp(-(2**2 + 1**2) / (2 * 1.5**2)), rel=1e-5)
    assert (heatmaps == 1).sum() == 2


def test_unlabelled_keypoints_and_those_outside_leave_no_trace():
    keypoints = person((13.0, 6.0, 0.0), (-1.0, 6.0, 2.0), (13.0, 40.0, 2.0), (32.0, 6.0, 2.0))
    assert gaussian_heatmaps(keypoints, (10, 8), stride=4, sigma=1.5).sum() == 0


def test_of_two_persons_the_nearer_counts():
    persons = torch.tensor([[[[2.0, 2.0, 2.0]], [[14.0, 2.0, 2.0]]]])
    both = gaussian_heatmaps(persons, (4, 8), stride=4, sigma=1.5)
    alone = [gaussian_heatmaps(persons[:, i : i + 1], (4, 8), stride=4, sigma=1.5) for i in (0, 1)]
    torch.testing.assert_close(both, torch.maximum(*alone))


def test_loss_by_hand():
    logits = torch.tensor([0.3, -1.2, 2.0]).view(1, 1, 1, 3)
    targets = torch.tensor([1.0, 0.6, 0.0]).view(1, 1, 1, 3)
    p = [1 / (1 + math.exp(-value)) for value in (0.3, -1.2, 2.0)]
    expected = -((1 - p[0]) ** 2) * math.log(p[0])
    expected -= 0.4**4 * p[1] ** 2 * math.log(1 - p[1])
    expected -= p[2] ** 2 * math.log(1 - p[2])
    assert heatmap_focal_loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)
