"""The set losses against torchvision, fvcore and loops over the matched pairs."""

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from test_matcher import random_boxes
from torchvision.ops import generalized_box_iou

from querypose.modeling.decoder import BoxOutput, KeypointOutput
from querypose.modeling.losses import criterion as criterion_module
from querypose.modeling.losses.auxiliary import attention_loss
from querypose.modeling.losses.criterion import SetCriterion
from querypose.modeling.losses.keypoint_loss import RLE, RealNVP, keypoints_in_box_units
from querypose.modeling.losses.matcher import HungarianMatcher, Match, Targets

NUM_QUERIES, NUM_KEYPOINTS = 4, 3
ROWS = [6, 0, 3, 5, 1]  # the rows that went through the keypoint stages, in no order


def make_targets():
    boxes = random_boxes(2, 2)
    place = torch.rand(2, 2, NUM_KEYPOINTS, 2) * 1.4 - 0.2  # some outside their box
    corner, size = boxes[:, :, None, :2], (boxes[..., 2:] - boxes[..., :2])[:, :, None]
    visibility = torch.randint(0, 3, (2, 2, NUM_KEYPOINTS, 1)).float()
    keypoints = torch.cat([corner + place * size, visibility], dim=3)
    return Targets(boxes, keypoints, [2, 1], torch.tensor([[64.0, 48.0, 64.0, 48.0], [80.0, 60.0, 80.0, 60.0]]))


def make_output(rows=ROWS):
    def stages(make):
        return [make().requires_grad_() for _ in range(2)]

    logits, boxes = stages(lambda: torch.randn(2, NUM_QUERIES, 1)), stages(lambda: random_boxes(2, NUM_QUERIES))
    return BoxOutput(logits, boxes, queries=[]), KeypointOutput(
        rows=torch.tensor(rows),
        coordinates=stages(lambda: 0.3 * torch.randn(len(rows), NUM_KEYPOINTS, 2)),
        sigmas=stages(lambda: 0.2 + 0.6 * torch.rand(len(rows), NUM_KEYPOINTS, 2)),
        attention=stages(lambda: torch.rand(len(rows), 2, 20).softmax(-1).view(-1, 2, 4, 5)),
    )


def make_matches():
    """(row, person): both persons of image 0 and the one of image 1, otherwise in each stage."""
    pairs = [[(3, 0), (1, 1), (6, 2)], [(0, 1), (3, 0), (5, 2)]]
    return [Match(*(torch.tensor(column) for column in zip(*stage, strict=True))) for stage in pairs]


def make_criterion(**weights):
    weights = {"class": 2.0, "l1": 5.0, "giou": 2.0, "keypoint": 1.0, "attention": 0.0} | weights
    loss = RLE(flow=RealNVP())
    return SetCriterion(matcher=HungarianMatcher(), keypoint_loss=loss, part_of_keypoint=[0, 1, 1], weights=weights)


def losses_of(criterion, output, targets, matches):
    number = torch.tensor(max(sum(targets.counts), 1))
    losses = criterion.box_losses(output[0], matches, targets, number)
    return losses | criterion.keypoint_losses(output[1], output[0], matches, targets, number)


def expected_losses(output, targets, match, stage, keypoint_loss):
    """Loops over the pairs of one stage, unweighted and without the normalizer."""
    boxes, keypoints = output
    logits = boxes.logits[stage].flatten()
    labels = torch.zeros(len(logits))
    l1 = giou = keypoint = attention = 0.0
    for row, person in zip(match.rows.tolist(), match.persons.tolist(), strict=True):
        labels[row] = 1
        box = boxes.boxes[stage].detach().reshape(1, -1, 4)[:, row]
        wanted = targets.boxes.reshape(1, -1, 4)[:, person]
        l1 += ((box - wanted) / targets.box_scale[row // NUM_QUERIES]).abs().sum().item()
        giou += 1 - generalized_box_iou(box, wanted).item()
        at = [ROWS.index(row)]
        places = keypoints_in_box_units(targets.keypoints.reshape(1, -1, NUM_KEYPOINTS, 3)[:, person], box)
        coordinates, sigmas = keypoints.coordinates[stage][at], keypoints.sigmas[stage][at]
        keypoint += keypoint_loss(coordinates, sigmas, *places).item()
        attention += attention_loss(keypoints.attention[stage][at], *places, [0, 1, 1]).item()
    focal = sigmoid_focal_loss(logits, labels, alpha=0.25, gamma=2, reduction="sum").item()
    return {
        **{"loss_class": focal, "loss_l1": l1, "loss_giou": giou},
        **{"loss_keypoint": keypoint / NUM_KEYPOINTS, "loss_attention": attention / NUM_KEYPOINTS},
    }


@pytest.mark.parametrize("weights", [{}, {"class": 3.0, "l1": 0.5, "giou": 7.0, "keypoint": 0.25, "attention": 0.5}])
def test_every_loss_of_every_stage(weights):
    criterion, output, targets, matches = make_criterion(**weights), make_output(), make_targets(), make_matches()
    losses = losses_of(criterion, output, targets, matches)
    assert len(losses) == 8 + 2 * ("attention" in weights)
    for stage, match in enumerate(matches):
        expected = expected_losses(output, targets, match, stage, criterion.keypoint_loss)
        assert expected["loss_keypoint"] != 0
        if "attention" not in weights:
            del expected["loss_attention"]
        for name, value in expected.items():
            ours = losses[name if stage == 1 else f"{name}_0"].item()
            # three persons in the batch
            assert ours == pytest.approx(criterion.weights[name[5:]] * value / 3, rel=1e-4), (stage, name)


def test_keypoints_do_not_move_boxes():
    criterion, output, targets, matches = make_criterion(), make_output(), make_targets(), make_matches()
    losses = losses_of(criterion, output, targets, matches)
    keypoints = losses["loss_keypoint"] + losses["loss_keypoint_0"]
    assert keypoints.item() != 0
    gradients = torch.autograd.grad(keypoints, [*output[0].boxes, *output[1].coordinates], allow_unused=True)
    assert gradients[0] is None and gradients[1] is None
    assert all(gradient.abs().sum() > 0 for gradient in gradients[2:])


@pytest.mark.parametrize(
    ("number", "others", "expected"), [(3, None, 3), (0, None, 1), (torch.tensor(3), 7, 5), (3, -3, 1)]
)
def test_numbers_averaged_over_processes(number, others, expected, monkeypatch):
    if others is not None:
        monkeypatch.setattr(criterion_module.comm, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(others))
    assert criterion_module.averaged_over_processes(number, "cpu").item() == expected


def test_no_match_at_all_leaves_the_graph_whole():
    criterion, output = make_criterion(), make_output(rows=[0])
    boxes, keypoints = output
    targets = Targets(torch.zeros(2, 1, 4), torch.zeros(2, 1, NUM_KEYPOINTS, 3), [0, 0], torch.ones(2, 4))
    matches = criterion.matcher.assign(boxes.logits, boxes.boxes, targets)
    losses = losses_of(criterion, output, targets, matches)
    background = sigmoid_focal_loss(boxes.logits[1], torch.zeros(2, NUM_QUERIES, 1), 0.25, 2.0, "sum").item()
    assert losses["loss_class"].item() == pytest.approx(2 * background, rel=1e-5)
    assert all(losses[name].item() == 0 for name in losses if "class" not in name)
    sum(losses.values()).backward()
    tensors = [*boxes.logits, *boxes.boxes, *keypoints.coordinates, *keypoints.sigmas]
    for tensor in [*tensors, *criterion.parameters()]:
        assert tensor.grad is not None and tensor.grad.isfinite().all()
