"""The cascade: where the variants differ, what is detached, how it starts."""

import math

import pytest
import torch
from tiny_model import NUM_QUERIES, spread, tiny_model

SIZES = torch.tensor([[96.0, 64.0], [80.0, 48.0]])


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(3)
    return [torch.randn(2, 16, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]


def make_decoder(variant, *opts):
    model = spread(tiny_model(variant, *opts))
    return model.decoder.eval()


@pytest.mark.parametrize("variant", ["light", "full"])
@torch.no_grad()
def test_shapes_of_every_stage(variant, features):
    output = make_decoder(variant)(features, SIZES)
    assert [len(kind) for kind in (output.logits, output.boxes, output.coordinates, output.sigmas)] == [2] * 4
    assert output.rows.tolist() == list(range(2 * NUM_QUERIES))
    for stage in range(2):
        assert output.logits[stage].shape == (2, NUM_QUERIES, 1) and output.boxes[stage].shape == (2, NUM_QUERIES, 4)
        assert output.coordinates[stage].shape == output.sigmas[stage].shape == (2 * NUM_QUERIES, 17, 2)


@torch.no_grad()
def test_selected_rows_are_as_they_would_be_among_all(features):
    decoder = make_decoder("light")
    everyone = decoder(features, SIZES)
    seen = []

    def select(logits, boxes):
        seen.append((logits, boxes))
        return torch.tensor([10, 2, 5, 7]), None

    some = decoder(features, SIZES, select)
    assert some.rows.tolist() == [10, 2, 5, 7]
    assert len(seen) == 1 and len(seen[0][0]) == 2 and torch.equal(seen[0][1][1], everyone.boxes[1])
    for stage in range(2):
        assert torch.equal(some.logits[stage], everyone.logits[stage])
        for ours, wanted in ((some.coordinates, everyone.coordinates), (some.sigmas, everyone.sigmas)):
            torch.testing.assert_close(ours[stage], wanted[stage][some.rows], rtol=1e-5, atol=1e-5)
    distinct = everyone.coordinates[1].flatten(1)
    assert (distinct[10] - distinct[2]).abs().max() > 1e-3, "rows must differ for this to show anything"


@torch.no_grad()
def test_keypoints_reach_the_next_box_stage_in_the_full_variant_alone(features):
    for variant, reaches in (("light", False), ("full", True)):
        decoder = make_decoder(variant)
        before = decoder(features, SIZES)
        tower = decoder.keypoint_stages[0].tower[0].weight
        tower.add_(torch.randn_like(tower))
        after = decoder(features, SIZES)
        assert torch.equal(after.boxes[0], before.boxes[0])
        assert (not torch.equal(after.boxes[1], before.boxes[1])) is reaches
        assert not torch.equal(after.coordinates[1], before.coordinates[1]), "part queries go on to the next stage"


@torch.no_grad()
def test_first_boxes_are_the_whole_image_without_padding():
    decoder = tiny_model().decoder
    boxes = decoder.initial_boxes(SIZES)
    assert boxes.shape == (2, NUM_QUERIES, 4)
    torch.testing.assert_close(boxes[0], torch.tensor([0.0, 0, 96, 64]).expand(NUM_QUERIES, 4))
    torch.testing.assert_close(boxes[1], torch.tensor([0.0, 0, 80, 48]).expand(NUM_QUERIES, 4))
    decoder.proposal_boxes.weight[0] = torch.tensor([0.25, 0.5, 0.5, 0.25])
    torch.testing.assert_close(decoder.initial_boxes(SIZES)[0, 0], torch.tensor([0.0, 24, 48, 40]))


@pytest.mark.parametrize("variant", ["light", "full"])
def test_gradients_stop_at_the_boxes_between_stages(variant, features):
    decoder = make_decoder(variant)
    output = decoder(features, SIZES)
    first = [decoder.box_stages[0].box_delta.weight, decoder.proposal_boxes.weight]
    losses = {
        "boxes of the next stage": output.boxes[1].sum(),
        "keypoints of the same stage": output.coordinates[0].sum() + output.sigmas[0].sum(),
        "keypoints of the next stage": output.coordinates[1].sum(),
    }
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, first, retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in gradients), name
    for gradient in torch.autograd.grad(output.boxes[0].sum(), first, retain_graph=True):
        assert gradient.abs().sum() > 0
    # the queries carry the gradient of the second stage to the first
    (gradient,) = torch.autograd.grad(output.boxes[1].sum(), decoder.box_stages[0].interaction.generator.weight)
    assert gradient.abs().sum() > 0


def test_part_queries_are_shared_and_iterated(features):
    decoder = make_decoder("light")
    decoder(features, SIZES).coordinates[1].square().sum().backward()
    assert decoder.part_queries.weight.shape == (7, 16)
    assert (decoder.part_queries.weight.grad.abs().sum(dim=1) > 0).all()
    assert decoder.keypoint_stages[0].part_update.expand.weight.grad.abs().sum() > 0


def test_initialisations():
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

    for deliberate, authors in zip(ours.keypoint_stages, theirs.keypoint_stages, strict=True):
        spread_of = {
            "deconvolution": (lambda s: s.part_embedding.upsample[0].weight, 0.001, xavier_std(16 * 16, 16 * 16)),
            "attention": (lambda s: s.part_embedding.attention.weight, 0.01, xavier_std(16 * 9, 7 * 9)),
            "coordinates": (lambda s: s.heads.coordinate_weight, 0.01 * xavier_std(16, 2), xavier_std(16, 2)),
            "sigmas": (lambda s: s.heads.sigma_weight, 0.01 * xavier_std(16, 2), xavier_std(16, 2)),
            "tower": (lambda s: s.tower[0].weight, xavier_std(16 * 9, 16 * 9), xavier_std(16 * 9, 16 * 9)),
            "instance to part": (lambda s: s.instance_to_part.weight, xavier_std(16, 16), xavier_std(16, 16)),
        }
        for name, (weight_of, wanted, wanted_of_authors) in spread_of.items():
            assert weight_of(deliberate).std().item() == pytest.approx(wanted, rel=0.12), name
            assert weight_of(authors).std().item() == pytest.approx(wanted_of_authors, rel=0.12), name
