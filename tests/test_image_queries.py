"""Image-dependent queries: peaks placed by hand give exactly their boxes, and losses their numbers."""

import math

import pytest
import torch
from tiny_model import NUM_QUERIES, tiny_batch, tiny_model

from querypose.modeling.beyond_the_paper import CenterMaps, ImageQueries
from querypose.modeling.losses.matcher import Targets

STRIDE, HEIGHT, WIDTH = 4, 8, 12  # of the maps: 48 x 32 pixels
IMAGE = ("MODEL.QUERYPOSE.IMAGE_QUERIES.ENABLED", True)


def maps_of(peaks, size=(HEIGHT, WIDTH), background=-6.0):
    """peaks: (row, column, logit, height, width, y, x), the last four in strides; falling logits elsewhere."""
    height, width = size
    center = background - 0.01 * torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    sizes, offset = torch.full((1, 2, height, width), 3.0), torch.full((1, 2, height, width), 0.5)
    for row, column, logit, *rest in peaks:
        center[0, 0, row, column] = logit
        sizes[0, :, row, column] = torch.tensor(rest[:2])
        offset[0, :, row, column] = torch.tensor(rest[2:])
    features = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width).repeat(1, 3, 1, 1)
    return CenterMaps(center, sizes, offset, features)


@pytest.fixture
def module():
    return ImageQueries(feature_dim=3, dim=4, stride=STRIDE, predict_maps=False)


def run(module, maps, number, size=(48.0, 32.0)):
    return module(maps, torch.zeros(number, 4), torch.tensor([size]))


def peaks(module, center, number, size=(48.0, 32.0)):
    scores, index = module.peaks(center, number, torch.tensor([size]))
    return scores[0, :, 0], index[0]


PEAKS = [(2, 3, -1.0, 4.0, 2.5, 0.25, 0.5), (5, 8, 2.0, 5.0, 3.0, 0.0, 0.75), (0, 10, 0.5, 3.0, 9.0, 0.5, 0.5)]


@torch.no_grad()
def test_peaks_give_their_boxes_and_add_to_the_queries(module):
    boxes, queries = run(module, maps_of(PEAKS), 3)
    # best first; x = 4 (8 + 0.75) = 35, y = 20, 12 x 20 pixels; the second one is clipped to the image
    wanted = [[29.0, 10, 41, 30], [24, 0, 48, 8], [9, 1, 19, 17]]
    torch.testing.assert_close(boxes[0], torch.tensor(wanted))
    scores = torch.tensor([2.0, 0.5, -1.0]).sigmoid()
    locations = torch.tensor([5.0 * WIDTH + 8, 10, 2 * WIDTH + 3])
    read = torch.cat([locations[:, None].repeat(1, 3), scores[:, None], scores.log()[:, None]], dim=1)
    torch.testing.assert_close(queries[0], module.project(read))


@torch.no_grad()
def test_where_maxima_run_out_the_highest_others_follow_with_score_0(module):
    maps = maps_of(PEAKS[1:2])
    # besides the peak, the first location is the only maximum of a map that falls from left to right and downward
    scores, index = peaks(module, maps.center, 4)
    assert index.tolist() == [5 * WIDTH + 8, 0, 1, 2]
    torch.testing.assert_close(scores, torch.tensor([2.0, -6.0, -torch.inf, -torch.inf]).sigmoid())
    # fewer locations than queries: the first one is repeated
    small = maps_of([(0, 1, 3.0, 2.0, 2.0, 0.5, 0.5)], size=(1, 2))
    assert peaks(module, small.center, 5, (8.0, 4.0))[1].tolist() == [1, 0, 0, 0, 0]
    assert run(module, small, 5, (8.0, 4.0))[0].shape == (1, 5, 4)


@torch.no_grad()
def test_equal_neighbors_are_all_peaks(module):
    maps = maps_of([(3, 3, 1.0, 3, 3, 0, 0), (3, 4, 1.0, 3, 3, 0, 0), (6, 9, 1.0, 3, 3, 0, 0)])
    scores, index = peaks(module, maps.center, 4)
    assert sorted(index[:3].tolist()) == [3 * WIDTH + 3, 3 * WIDTH + 4, 6 * WIDTH + 9] and (scores[:3] > 0.7).all()
    assert len(peaks(module, torch.zeros(1, 1, HEIGHT, WIDTH), 5)[1].unique()) == 5


@torch.no_grad()
def test_padding_has_no_peak_and_hides_none(module):
    # an image of 22 x 18 pixels ends within column 5 and row 4
    maps = maps_of([(4, 6, 9.0, 3, 3, 0.5, 0.5), (4, 5, 1.0, 3, 3, 0.5, 0.5), (7, 1, 8.0, 3, 3, 0.5, 0.5)])
    scores, index = peaks(module, maps.center, 40, (22.0, 18.0))
    assert index[0] == 4 * WIDTH + 5 and scores[0].item() == pytest.approx(1 / (1 + math.exp(-1)))
    inside = {row * WIDTH + column for row in range(5) for column in range(6)}
    assert set(index[:30].tolist()) == inside == set(index.tolist())


@torch.no_grad()
def test_boxes_lie_inside_of_the_image_whatever_the_maps_say(module):
    maps = maps_of([])
    maps.center = 5 * torch.randn(1, 1, HEIGHT, WIDTH)
    maps.size, maps.offset = 40 * torch.randn(1, 2, HEIGHT, WIDTH), 10 * torch.randn(1, 2, HEIGHT, WIDTH)
    boxes, _ = run(module, maps, 96, (45.0, 30.0))
    assert (boxes >= 0).all() and (boxes[..., 0::2] <= 45).all() and (boxes[..., 1::2] <= 30).all()
    assert (boxes[..., 2:] - boxes[..., :2] >= 4).all()


def losses_of(module, boxes, count, persons):
    """Losses by name and the leaves `center`, `size`, `offset` of the maps, which have their gradients."""
    maps = maps_of([], background=-1.0)
    leaves = [tensor.requires_grad_() for tensor in (maps.center, maps.size, maps.offset)]
    targets = Targets(boxes, torch.zeros(1, boxes.shape[1], 17, 3), [count], torch.tensor([[48.0, 32, 48, 32]]))
    losses = module.losses(maps, targets, torch.tensor(persons))
    sum(losses.values()).backward()
    return losses, leaves


def test_losses_by_hand(module):
    # two persons, the rest is padding: centers (22, 15) and (6, 30) are locations (5, 3) and (1, 7)
    boxes = torch.tensor([[[16.0, 5, 28, 25], [4, 28, 8, 32], [0, 0, 1, 1]]])
    losses, (center, size, offset) = losses_of(module, boxes, 2, 2.0)
    # sizes in strides (height, width): (5, 3) and (1, 1) against 3, 3; offsets: y 0.75, x 0.5 and y 0.5, x 0.5
    assert losses["loss_center_size"].item() == pytest.approx(0.1 * (2 + 0 + 2 + 2) / 2)
    assert losses["loss_center_offset"].item() == pytest.approx(0.25 / 2)
    total = 0.0
    for row, column in torch.cartesian_prod(torch.arange(HEIGHT), torch.arange(WIDTH)).tolist():
        p = center[0, 0, row, column].sigmoid().item()
        distance = min((row - 3) ** 2 + (column - 5) ** 2, (row - 7) ** 2 + (column - 1) ** 2)
        target = math.exp(-distance / 2)  # both sigmas are at their least, 1
        total -= (1 - p) ** 2 * math.log(p) if target == 1 else (1 - target) ** 4 * p**2 * math.log(1 - p)
    assert losses["loss_center"].item() == pytest.approx(total / 2, rel=1e-4)
    assert (center.grad[0, 0] < 0).nonzero().tolist() == [[3, 5], [7, 1]], "up at the persons, down elsewhere"
    assert size.grad.count_nonzero() == 3 and offset.grad.count_nonzero() == 1


def test_losses_without_a_person(module):
    losses, (_, size, offset) = losses_of(module, torch.zeros(1, 1, 4), 0, 1.0)
    assert losses["loss_center"] > 0 and losses["loss_center_size"] == losses["loss_center_offset"] == 0
    assert not size.grad.any() and not offset.grad.any()


@pytest.mark.parametrize("variant", ["light", "branched", "full"])
@torch.no_grad()
def test_the_first_step_keeps_the_first_boxes(variant):
    model = tiny_model(variant, *IMAGE).eval()
    features, sizes, maps = model.extract(model.preprocess(tiny_batch()))
    first, queries = model.proposals(sizes, maps)
    assert queries.shape == (2, NUM_QUERIES, 16) and not torch.equal(queries[0], queries[1])
    boxes, _ = model.decode(features, sizes, maps)
    for stage in boxes.boxes:
        torch.testing.assert_close(stage, first)


@torch.no_grad()
def test_predicted_maps_start_without_persons():
    module = ImageQueries(feature_dim=16, dim=4, stride=STRIDE, predict_maps=True)
    features = torch.randn(1, 16, HEIGHT, WIDTH)
    maps = module.maps({"p2": features}, "p2")
    assert ((maps.center.sigmoid() > 0.005) & (maps.center.sigmoid() < 0.02)).all() and maps.features is features
    assert (maps.size - 8).abs().max() < 0.5 and (maps.offset - 0.5).abs().max() < 0.5
