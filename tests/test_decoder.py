"""The cascade: where the variants differ, what is detached, how it starts."""

import math

import pytest
import torch
from tiny_model import NUM_QUERIES, spread, tiny_model

from querypose.modeling.decoder import QueryPoseDecoder, select_rows

SIZES = torch.tensor([[96.0, 64.0], [80.0, 48.0]])


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(3)
    return [torch.randn(2, 16, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]


def make_decoder(variant, *opts) -> QueryPoseDecoder:
    return spread(tiny_model(variant, *opts)).decoder.eval()


def decode(decoder, features):
    return decoder(features, *decoder.proposals(SIZES))


@torch.no_grad()
def test_a_row_does_not_depend_on_the_other_rows(features):
    decoder = make_decoder("branched")
    boxes, everyone = decode(decoder, features)
    rows = torch.tensor([10, 2, 5, 7])
    some = decoder.decode_keypoints(features[0], boxes, rows)
    fewer = decoder.decode_keypoints(features[0], boxes, rows, counts=[4, 2])
    assert [len(stage) for stage in fewer.coordinates] == [4, 2]
    for kind in ("coordinates", "sigmas", "attention"):
        for ours, first, wanted in zip(*(getattr(out, kind) for out in (some, fewer, everyone)), strict=True):
            torch.testing.assert_close(ours, wanted[rows], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(first, ours[: len(first)], rtol=1e-5, atol=1e-5)
    distinct = everyone.coordinates[1].flatten(1)
    assert (distinct[10] - distinct[2]).abs().max() > 1e-3, "rows must differ for this to show anything"


@torch.no_grad()
def test_keypoints_reach_the_next_box_stage_in_the_full_variant_alone(features):
    for variant, reaches in (("light", False), ("branched", False), ("full", True)):
        decoder = make_decoder(variant)
        boxes, keypoints = decode(decoder, features)
        tower = decoder.keypoint_stages[0].tower[0].weight
        tower.add_(torch.randn_like(tower))
        other_boxes, other_keypoints = decode(decoder, features)
        assert torch.equal(other_boxes.boxes[0], boxes.boxes[0])
        assert (not torch.equal(other_boxes.boxes[1], boxes.boxes[1])) is reaches
        assert not torch.equal(other_keypoints.coordinates[1], keypoints.coordinates[1]), "part queries are passed on"


@torch.no_grad()
def test_first_boxes_are_the_whole_image_without_padding():
    decoder = tiny_model().decoder
    decoder.proposal_boxes.weight[0] = torch.tensor([0.25, 0.5, 0.5, 0.25])
    boxes, queries = decoder.proposals(SIZES)
    assert queries.shape == (2, NUM_QUERIES, 16)
    torch.testing.assert_close(boxes[0, 0], torch.tensor([0.0, 24, 48, 40]))
    wanted = torch.tensor([[[0.0, 0, 96, 64]], [[0, 0, 80, 48]]])
    torch.testing.assert_close(boxes[:, 1:], wanted.expand(2, NUM_QUERIES - 1, 4))


@pytest.mark.parametrize("variant", ["light", "full"])
def test_gradients_stop_at_the_boxes_between_stages(variant, features):
    decoder = make_decoder(variant)
    boxes, keypoints = decode(decoder, features)
    first = [decoder.box_stages[0].box_delta.weight, decoder.proposal_boxes.weight]
    losses = {
        "boxes of the next stage": boxes.boxes[1].sum(),
        "keypoints of the same stage": keypoints.coordinates[0].sum() + keypoints.sigmas[0].sum(),
        "keypoints of the next stage": keypoints.coordinates[1].sum(),
    }
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, first, retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in gradients), name
    for gradient in torch.autograd.grad(boxes.boxes[0].sum(), first, retain_graph=True):
        assert gradient.abs().sum() > 0
    # the queries carry the gradient of the second stage to the first
    (gradient,) = torch.autograd.grad(boxes.boxes[1].sum(), decoder.box_stages[0].interaction.generator.weight)
    assert gradient.abs().sum() > 0


@torch.no_grad()
def test_regions_are_read_from_their_own_box_and_image():
    decoder = tiny_model().decoder
    # ramps along x show where a box was read: pixel x lies at location x / 4 - 1/2
    ramps = torch.arange(24.0).expand(2, 16, 16, 24) * torch.tensor([1.0, 100.0])[:, None, None, None]
    boxes = torch.tensor([[20.0, 8.0, 44.0, 40.0], [20.0, 8.0, 44.0, 40.0], [24.0, 8.0, 48.0, 40.0]])
    regions = decoder.pool_keypoint_regions(ramps.contiguous(), boxes, torch.tensor([0, 1, 0]))
    # 6 bins over 20 .. 44 have their centers at 22, 26 .. 42
    expected = torch.arange(22.0, 44.0, 4.0) / 4 - 0.5
    for region, wanted in zip(regions, (expected, 100 * expected, expected + 1), strict=True):
        torch.testing.assert_close(region, wanted.expand(16, 6, 6))


@torch.no_grad()
def test_a_query_left_out_of_a_stage_keeps_its_own_queries(features):
    """Full variant with top-k: what each keypoint stage gets is what the same query had before."""
    decoder, given = make_decoder("full", "MODEL.QUERYPOSE.NUM_STAGES", 3), []
    for stage in decoder.keypoint_stages:
        stage.register_forward_hook(lambda module, args, output: given.append((args, output)))
    boxes, keypoints = decoder.decode_jointly(features, *decoder.proposals(SIZES), topk=4)
    assert len(keypoints.rows) == 8 and len(keypoints.coordinates) == len(keypoints.attention) == 1
    held = {row: decoder.part_queries.weight for row in range(2 * NUM_QUERIES)}
    selected = [select_rows(logits, topk=4).tolist() for logits in boxes.logits]
    assert len({tuple(sorted(rows)) for rows in selected}) > 1, "the stages must select different queries"
    for rows, queries, ((_, instances, parts), output) in zip(selected, boxes.queries, given, strict=True):
        for at, row in enumerate(rows):
            assert torch.equal(parts[at], held[row]) and torch.equal(instances[at], queries.flatten(0, 1)[row])
            held[row] = output[3][at]


def test_selected_rows():
    logits = torch.tensor([[0.3, -2.0, 1.0, 0.1], [-1.0, 2.0, 3.0, -4.0]])[..., None]
    assert select_rows(logits).tolist() == list(range(8)) == select_rows(logits, topk=4).tolist()
    assert select_rows(logits, topk=2).tolist() == [2, 0, 6, 5]
    assert select_rows(logits, score_floor=0.55).tolist() == [0, 2, 5, 6]
    assert select_rows(logits, topk=3, score_floor=0.7).tolist() == [2, 6, 5]
    assert select_rows(logits, score_floor=0.99).tolist() == []


def test_initializations():
    ours, theirs = (
        tiny_model("light", "MODEL.QUERYPOSE.INITIALIZATION", kind).decoder for kind in ("deliberate", "authors")
    )
    for decoder in (ours, theirs):
        for stage in decoder.box_stages:
            # a probability of 0.01 to be a person
            assert torch.sigmoid(stage.class_logit.bias).item() == pytest.approx(0.01)
            assert stage.box_delta.weight.abs().max() <= math.sqrt(6 / (4 + 16))
        assert torch.equal(decoder.proposal_boxes.weight, torch.tensor([0.5, 0.5, 1, 1]).expand(NUM_QUERIES, 4))

    def xavier_std(fan_in, fan_out):
        return math.sqrt(2 / (fan_in + fan_out))

    spread_of = {  # ours, then the authors'
        "part_embedding.upsample.0": (0.001, xavier_std(16 * 16, 16 * 16)),
        "part_embedding.attention": (0.01, xavier_std(16 * 9, 7 * 9)),
        "heads.coordinate": (xavier_std(16, 2), xavier_std(16, 2)),
        "heads.sigma": (xavier_std(16, 2), xavier_std(16, 2)),
        "tower.0": (xavier_std(16 * 9, 16 * 9), xavier_std(16 * 9, 16 * 9)),
        "instance_to_part": (xavier_std(16, 16), xavier_std(16, 16)),
    }
    for decoder, kind in ((ours, 0), (theirs, 1)):
        weights = dict(decoder.keypoint_stages[1].named_parameters())
        for name, wanted in spread_of.items():
            weight = weights.get(f"{name}.weight", weights.get(f"{name}_weight"))
            assert weight.std().item() == pytest.approx(wanted[kind], rel=0.12), name
    heads = tiny_model("light", "MODEL.QUERYPOSE.ANCHORED_COORDINATES", True).decoder.keypoint_stages[1].heads
    assert heads.coordinate_weight.std().item() == pytest.approx(0.01 * xavier_std(16, 2), rel=0.12)
