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


def gaussian_map(x, y, sigma):
    """The Gaussian at (x, y), in places, over a map of 6x10 places that have their centres at i + 0.5."""
    columns = torch.exp(-((torch.arange(10) + 0.5 - x) ** 2) / (2 * sigma**2))
    rows = torch.exp(-((torch.arange(6) + 0.5 - y) ** 2) / (2 * sigma**2))
    return rows[:, None] * columns / (rows.sum() * columns.sum())


def test_flat_attention_costs_the_logarithm_of_the_number_of_places():
    attention = torch.full((2, 3, 6, 8), 1 / 48)
    targets, valid = torch.rand(2, 4, 2) - 0.5, torch.tensor([[True, False, True, True], [False, False, False, True]])
    with torch.autocast("cpu", torch.bfloat16):
        loss = attention_loss(attention, targets, valid, [0, 0, 1, 2])
    assert loss.item() == pytest.approx(4 * math.log(48), rel=1e-5)


def test_the_gaussian_at_the_keypoint_is_the_best_attention():
    # x = 0.1, y = -0.25 in box units are place 6 of 10 and place 1.5 of 6
    targets, valid = torch.tensor([[[0.1, -0.25]]]), torch.tensor([[True]])

    def loss(x, y, sigma=1.5):
        return attention_loss(gaussian_map(x, y, sigma)[None, None], targets, valid, [0], sigma=1.5).item()

    best = gaussian_map(6.0, 1.5, 1.5)
    assert loss(6.0, 1.5) == pytest.approx(-(best * best.log()).sum().item(), rel=1e-5)
    others = [loss(7.0, 1.5), loss(5.0, 1.5), loss(6.0, 2.5), loss(6.0, 0.5), loss(6.0, 1.5, 1.2), loss(6.0, 1.5, 2.0)]
    assert min(others) > loss(6.0, 1.5)


def test_keypoints_of_one_part_share_its_map():
    # two keypoints at opposite places: half of the attention on each is best, and the third, invalid, draws nothing
    targets, valid = torch.tensor([[[-0.3, 0.0], [0.3, 0.0], [0.0, 0.4]]]), torch.tensor([[True, True, False]])
    logits = torch.zeros(1, 1, 5, 11, requires_grad=True)
    attention_loss(logits.flatten(2).softmax(-1).view_as(logits), targets, valid, [0, 0, 0], sigma=0.5).backward()
    drawn = -logits.grad[0, 0]
    assert {tuple(divmod(int(place), 11)) for place in drawn.flatten().topk(2).indices} == {(2, 2), (2, 8)}
    assert drawn[2, 2].item() == pytest.approx(drawn[2, 8].item(), rel=1e-3) and (drawn[4] < 0).all()


def test_what_does_not_count_may_be_anything():
    attention = torch.rand(1, 2, 4, 4).requires_grad_()
    targets = torch.tensor([[[float("nan"), 0.0], [float("inf"), 1e30]]])
    loss = attention_loss(attention, targets, torch.zeros(1, 2, dtype=torch.bool), [0, 1])
    loss.backward()
    assert loss.item() == 0 and not attention.grad.any()
