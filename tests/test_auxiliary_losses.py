"""Losses in training only: the auxiliary heatmap by closed form, and the loss on attention maps."""

import math

import pytest
import torch

from querypose.modeling.losses.auxiliary import attention_loss, gaussian_heatmaps, heatmap_focal_loss


def person(*keypoints):
    return torch.tensor([[list(keypoints)]], dtype=torch.float32)


def test_a_gaussian_stands_where_the_keypoint_is():
    heatmaps = gaussian_heatmaps(person((13.0, 6.0, 2.0), (2.0, 30.0, 1.0)), (10, 8), stride=4, sigma=1.5)
    assert heatmaps.shape == (1, 2, 10, 8)
    assert heatmaps[0, 0, 1, 3] == 1 and heatmaps[0, 1, 7, 0] == 1
    assert heatmaps[0, 0, 3, 4].item() == pytest.approx(math.exp(-(2**2 + 1**2) / (2 * 1.5**2)), rel=1e-5)
    assert (heatmaps == 1).sum() == 2
    # unlabeled keypoints and those outside leave no trace
    keypoints = person((13.0, 6.0, 0.0), (-1.0, 6.0, 2.0), (13.0, 40.0, 2.0), (32.0, 6.0, 2.0))
    assert gaussian_heatmaps(keypoints, (10, 8), stride=4, sigma=1.5).sum() == 0


def test_of_two_persons_the_nearer_counts():
    persons = torch.tensor([[[[2.0, 2.0, 2.0]], [[14.0, 2.0, 2.0]]]])
    both = gaussian_heatmaps(persons, (4, 8), stride=4, sigma=1.5)
    alone = [gaussian_heatmaps(persons[:, i : i + 1], (4, 8), stride=4, sigma=1.5) for i in (0, 1)]
    torch.testing.assert_close(both, torch.maximum(*alone))


def test_heatmap_loss_by_hand():
    logits = torch.tensor([0.3, -1.2, 2.0]).view(1, 1, 1, 3)
    targets = torch.tensor([1.0, 0.6, 0.0]).view(1, 1, 1, 3)
    p = [1 / (1 + math.exp(-value)) for value in (0.3, -1.2, 2.0)]
    expected = -((1 - p[0]) ** 2) * math.log(p[0])
    expected -= 0.4**4 * p[1] ** 2 * math.log(1 - p[1])
    expected -= p[2] ** 2 * math.log(1 - p[2])
    assert heatmap_focal_loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)


def test_attention_loss_is_the_cross_entropy_with_gaussians_at_the_keypoints():
    attention, part_of_keypoint = torch.randn(2, 3, 60).softmax(-1).view(2, 3, 6, 10), [0, 0, 1, 2]
    targets, valid = torch.rand(2, 4, 2) - 0.5, torch.tensor([[True, True, False, True], [False, False, False, True]])
    expected = 0.0
    for person, keypoint in valid.nonzero().tolist():
        # places have their centers at i + 0.5; 10 columns, 6 rows
        x, y = (targets[person, keypoint] + 0.5) * torch.tensor([10, 6])
        row = torch.exp(-((torch.arange(10) + 0.5 - x) ** 2) / (2 * 1.5**2))
        column = torch.exp(-((torch.arange(6) + 0.5 - y) ** 2) / (2 * 1.5**2))
        gaussian = column[:, None] * row / (column.sum() * row.sum())
        expected -= (gaussian * attention[person, part_of_keypoint[keypoint]].log()).sum().item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = attention_loss(attention, targets, valid, part_of_keypoint, sigma=1.5)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_what_does_not_count_may_be_anything():
    attention = torch.rand(1, 2, 4, 4).requires_grad_()
    targets = torch.tensor([[[float("nan"), 0.0], [float("inf"), 1e30]]])
    loss = attention_loss(attention, targets, torch.zeros(1, 2, dtype=torch.bool), [0, 1])
    loss.backward()
    assert loss.item() == 0 and not attention.grad.any()
