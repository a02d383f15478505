"""Ground truth of different sizes in one tensor, and its assignment by costs computed another way."""

import pytest
import torch
from detectron2.structures import Boxes, Instances, Keypoints
from scipy.optimize import linear_sum_assignment
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from querypose.modeling.losses.matcher import HungarianMatcher, Match, Targets, matched_rows


def random_boxes(*shape):
    low = 60 * torch.rand(*shape, 2)
    return torch.cat([low, low + 30 * torch.rand(*shape, 2) + 2], dim=-1)


def make_targets(counts):
    boxes = random_boxes(2, max(1, *counts))
    for index, count in enumerate(counts):
        boxes[index, count:] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    box_scale = torch.tensor([[100.0, 80.0, 100.0, 80.0], [60.0, 90.0, 60.0, 90.0]])
    return Targets(boxes, torch.zeros(2, boxes.shape[1], 3, 3), list(counts), box_scale)


def reference_cost(logits, boxes, targets, image, class_weight=2, l1_weight=5, giou_weight=2):
    """Costs (N, persons) of one image: focal loss as a person less focal loss as background, and so on."""
    count = targets.counts[image]
    wanted = targets.boxes[image, :count]
    logit = logits[image, :, 0]
    as_person = sigmoid_focal_loss(logit, torch.ones_like(logit), alpha=0.25, gamma=2)
    as_background = sigmoid_focal_loss(logit, torch.zeros_like(logit), alpha=0.25, gamma=2)
    l1 = torch.cdist(boxes[image] / targets.box_scale[image], wanted / targets.box_scale[image], p=1)
    giou = generalized_box_iou(boxes[image], wanted)
    return class_weight * (as_person - as_background)[:, None] + l1_weight * l1 - giou_weight * giou


@pytest.mark.parametrize("counts", [(3, 1), (2, 4), (0, 2), (1, 0), (6, 2), (6, 5), (0, 0)])
def test_pairs_of_every_image_and_stage(counts):
    targets = make_targets(counts)
    logits, boxes = [torch.randn(2, 4, 1) for _ in range(3)], [random_boxes(2, 4) for _ in range(3)]
    most = max(1, *counts)
    for stage, match in enumerate(HungarianMatcher().assign(logits, boxes, targets)):
        expected = []
        for image in range(2):
            pairs = linear_sum_assignment(reference_cost(logits[stage], boxes[stage], targets, image))
            expected += [(image * 4 + query, image * most + person) for query, person in zip(*pairs, strict=True)]
        assert list(zip(match.rows.tolist(), match.persons.tolist(), strict=True)) == expected


def test_costs_against_torchvision():
    targets = make_targets((3, 2))
    logits, boxes = 3 * torch.randn(2, 5, 1), random_boxes(2, 5)
    for weights in ((2, 5, 2), (3, 0.5, 7)):
        cost = HungarianMatcher(*weights).cost(logits, boxes, targets)
        for image, count in enumerate(targets.counts):
            expected = reference_cost(logits, boxes, targets, image, *weights)
            torch.testing.assert_close(cost[image, :, :count], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_diverged_predictions_still_are_assigned(bad):
    targets = make_targets((2, 1))
    logits, boxes = [torch.randn(2, 4, 1)], [random_boxes(2, 4)]
    logits[0][0, 1] = float("nan")
    boxes[0][0, 2] = bad
    boxes[0][1] = float("nan")
    (match,) = HungarianMatcher().assign(logits, boxes, targets)
    assert len(match.rows) == 3 and len(set(match.persons.tolist())) == 3
    assert {1, 2}.isdisjoint(match.rows.tolist()), "sound predictions come first"


def test_one_transfer_to_the_host_for_all_stages(monkeypatch):
    transfers = []
    for name in ("cpu", "item", "tolist", "__bool__", "nonzero"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, _original=original, _name=name, **kwargs):
            transfers.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    HungarianMatcher().assign([torch.randn(2, 4, 1)] * 6, [random_boxes(2, 4)] * 6, make_targets((2, 1)))
    assert transfers == ["cpu"]


def test_rows_that_late_stages_need_come_first():
    def stage(*rows):
        return Match(torch.tensor(rows, dtype=torch.long), torch.zeros(len(rows), dtype=torch.long))

    rows, number = matched_rows([stage(7, 3), stage(5, 3), stage(9, 5)])
    assert rows.tolist() == [5, 9, 3, 7] and number == [4, 3, 2]
    rows, number = matched_rows([stage(2, 8)] * 3)
    assert rows.tolist() == [2, 8] and number == [2, 2, 2]
    rows, number = matched_rows([stage(), stage()])
    assert rows.tolist() == [0] and number == [1, 1]


def test_padding_and_scale():
    persons = {
        (10, 20): ([[1, 2, 3, 4]], [[[5, 6, 2], [7, 8, 1]]]),
        (30, 40): ([[0, 0, 9, 9], [1, 1, 2, 2]], [[[1, 1, 1], [2, 2, 2]], [[3, 3, 0], [4, 4, 2]]]),
        (5, 6): ([], []),
    }
    images = [Instances(size, gt_boxes=Boxes(torch.tensor(boxes).float())) for size, (boxes, _) in persons.items()]
    for image, (_, keypoints) in zip(images[:2], persons.values(), strict=False):  # the last has no such field
        image.gt_keypoints = Keypoints(torch.tensor(keypoints).float())
    targets = Targets.from_instances(images, 2, torch.device("cpu"))
    assert targets.counts == [1, 2, 0]
    for index, (boxes, keypoints) in enumerate(persons.values()):
        padding = 2 - len(boxes)
        assert targets.boxes[index].tolist() == boxes + [[0, 0, 1, 1]] * padding
        assert targets.keypoints[index].tolist() == keypoints + [[[0, 0, 0]] * 2] * padding
    # width, height, width, height
    assert targets.box_scale.tolist() == [[20, 10, 20, 10], [40, 30, 40, 30], [6, 5, 6, 5]]
