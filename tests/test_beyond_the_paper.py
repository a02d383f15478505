"""The four additions that are not the paper's, each by its formula, and together in every kind of model."""

import pytest
import torch
from tiny_model import NUM_QUERIES, spread, tiny_batch, tiny_config, tiny_model, without_batch_statistics

from querypose.modeling.beyond_the_paper import OneToManyProposals, ground_truth_regions
from querypose.modeling.keypoint_stage import KeypointStage, attention_anchors
from querypose.modeling.losses.criterion import class_loss
from querypose.modeling.losses.keypoint_loss import keypoints_in_box_units
from querypose.modeling.losses.matcher import Match, Targets

KEY = "MODEL.QUERYPOSE."
ANCHORED = (f"{KEY}ANCHORED_COORDINATES", True)
REGIONS = (f"{KEY}GROUND_TRUTH_REGIONS.COPIES", 2)
MANY = (f"{KEY}ONE_TO_MANY.NUM_QUERIES", 7)
IMAGE = (f"{KEY}IMAGE_QUERIES.ENABLED", True)
MATCHED = (f"{KEY}TRAIN_QUERIES", "matched")
KINDS = {"light matched": ("light", *MATCHED), "full": ("full",)}


def training_model(*opts):
    model = without_batch_statistics(spread(tiny_model(*opts)))
    if model.one_to_many is not None:
        model.one_to_many.repeats = 2
    return model


def assert_only_adds(losses, kind, names):
    """The losses of the model without the addition are as they were."""
    plain = training_model(*KINDS[kind])(tiny_batch())
    assert losses.keys() - plain.keys() == names
    for name, value in plain.items():
        assert torch.equal(losses[name], value), name


def extracted(model, batch):
    """The feature maps, image sizes and ground truth of a batch."""
    features, sizes, _ = model.extract(model.preprocess(batch))
    return features, sizes, Targets.from_instances([inputs["instances"] for inputs in batch], 17, "cpu")


def random_targets(counts):
    low = 40 * torch.rand(len(counts), max(counts), 2)
    boxes = torch.cat([low, low + 10 + 20 * torch.rand(low.shape)], dim=2)
    return Targets(boxes, torch.zeros(len(counts), max(counts), 3, 3), list(counts), torch.full((len(counts), 4), 80.0))


def test_anchors_of_known_maps():
    attention = torch.zeros(1, 4, 4, 5)
    attention[0, 0, 1, 3] = 1.0  # the location's center, x = 3.5 / 5 - 0.5, y = 1.5 / 4 - 0.5
    attention[0, 1] = 1 / 20
    attention[0, 2, 0, 0], attention[0, 2, 3, 4] = 0.25, 0.75
    attention[0, 3, :, 0] = 0.25
    wanted = [[0.2, -0.125], [0.0, 0.0], [-0.4 * 0.25 + 0.4 * 0.75, -0.375 * 0.25 + 0.375 * 0.75], [-0.4, 0.0]]
    torch.testing.assert_close(attention_anchors(attention)[0], torch.tensor(wanted))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention_anchors(attention)[0], torch.tensor(wanted))


def test_coordinates_are_the_paper_s_and_the_anchor_of_their_part():
    parts = [0, 0, 1, 2, 2, 1]
    torch.manual_seed(0)
    stage = KeypointStage(tiny_config("light", *ANCHORED), parts).eval()
    inputs = torch.randn(5, 16, 6, 6), torch.randn(5, 16), torch.randn(5, 3, 16)
    coordinates, *_, attention = stage(*inputs)
    stage.anchored = False
    plain, *_ = stage(*inputs)
    torch.testing.assert_close(coordinates, plain + attention_anchors(attention)[:, parts])
    # with heads that are constant, the attention is moved by the anchors alone
    torch.nn.init.zeros_(stage.heads.coordinate_weight)
    for anchored in (True, False):
        stage.anchored = anchored
        (gradient,) = torch.autograd.grad(stage(*inputs)[0].square().sum(), stage.part_embedding.attention.weight)
        assert gradient.any() == anchored


def test_regions_are_jittered_boxes_of_the_matched_persons():
    targets = random_targets((2, 1))
    match = Match(torch.tensor([4, 0, 9]), torch.tensor([1, 0, 2]))
    repeated, regions = ground_truth_regions(match, targets, copies=2000, jitter=0.1)
    assert repeated.rows.tolist() == [4, 0, 9] * 2000 and repeated.persons.tolist() == [1, 0, 2] * 2000
    boxes = targets.boxes.flatten(0, 1)[repeated.persons]
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = (regions - boxes) / size
    # uniform, and each side of a box by itself
    assert moved.abs().max() <= 0.1 + 1e-5 and (moved.amax(dim=0) > 0.099).all() and (moved.amin(dim=0) < -0.099).all()
    torch.testing.assert_close(moved.mean(dim=0), torch.zeros(4), atol=0.003, rtol=0)
    torch.testing.assert_close(moved.T.cov(), torch.eye(4) * 0.1**2 / 3, atol=2e-4, rtol=0)
    assert torch.equal(ground_truth_regions(match, targets, 1, 0.0)[1], targets.boxes.flatten(0, 1)[[1, 0, 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_region_losses_by_hand_and_the_other_losses_as_without(kind):
    batch, model = tiny_batch(), training_model(*KINDS[kind], *REGIONS)
    torch.manual_seed(5)
    losses = model(batch)
    assert_only_adds(losses, kind, {"loss_keypoint_region", "loss_keypoint_region_0"})

    features, sizes, targets = extracted(model, batch)
    boxes, _ = model.decoder(features, *model.decoder.proposals(sizes))
    match = model.criterion.matcher.assign(boxes.logits, boxes.boxes, targets)[-1]
    torch.manual_seed(5)
    match, regions = ground_truth_regions(match, targets, 2, 0.1)
    wanted, valid = keypoints_in_box_units(targets.keypoints.flatten(0, 1)[match.persons], regions)
    assert len(match.rows) == 6 and valid.sum() > 50
    pooled = model.decoder.pool_keypoint_regions(features[0], regions, match.rows // NUM_QUERIES)
    parts = model.decoder.part_queries.weight.expand(6, -1, -1)
    for index, name in enumerate(["loss_keypoint_region_0", "loss_keypoint_region"]):
        queries = boxes.queries[index].flatten(0, 1)[match.rows]
        coordinates, sigmas, _, parts, _ = model.decoder.keypoint_stages[index](pooled, queries, parts)
        total = model.criterion.keypoint_loss(coordinates, sigmas, wanted, valid)
        # three persons, two copies, K keypoints
        assert losses[name].item() == pytest.approx(total.item() / (3 * 2 * 17), rel=1e-4)


def test_repeated_targets():
    targets = random_targets((2, 0, 3))
    repeated = OneToManyProposals(5, 16, repeats=4).targets(targets)
    assert repeated.counts == [8, 0, 12] and torch.equal(repeated.box_scale, targets.box_scale)
    for boxes, given, count in zip(repeated.boxes, targets.boxes, targets.counts, strict=True):
        assert sorted(boxes[: 4 * count].tolist()) == sorted(4 * given[:count].tolist())


@torch.no_grad()
def test_the_first_boxes_of_the_second_set_cover_the_image():
    boxes, _ = OneToManyProposals(24, 16)(torch.tensor([[90.0, 60.0]]))
    torch.testing.assert_close(boxes[0, :, 2:] - boxes[0, :, :2], torch.tensor([30.0, 20.0]).expand(24, 2))
    centers = (boxes[0, :, 2:] + boxes[0, :, :2]) / 2
    assert len(centers.unique(dim=0)) == 24 and (centers > 0).all() and (centers < torch.tensor([90.0, 60.0])).all()
    assert (boxes[0, :, 0] <= 0).any() and (boxes[0, :, 2] >= 90).any() and (boxes[0, :, 3] >= 60).any()


@pytest.mark.parametrize("kind", KINDS)
def test_one_to_many_losses_by_hand_and_the_other_losses_as_without(kind):
    batch, model = tiny_batch(), training_model(*KINDS[kind], *MANY)
    losses = model(batch)
    names = {f"loss_{name}_many{stage}" for name in ("class", "l1", "giou") for stage in ("", "_0")}
    assert_only_adds(losses, kind, names)

    features, sizes, targets = extracted(model, batch)
    boxes = model.decoder.decode_boxes(features, *model.one_to_many(sizes))
    repeated = model.one_to_many.targets(targets)
    for stage, match in enumerate(model.criterion.matcher.assign(boxes.logits, boxes.boxes, repeated)):
        assert len(match.rows.unique()) == len(match.rows) == 6, "two queries for each of three persons"
        suffix = ("_many_0", "_many")[stage]
        wanted = repeated.boxes.flatten(0, 1)[match.persons]
        found = boxes.boxes[stage].flatten(0, 1)[match.rows]
        scale = torch.where(match.rows[:, None] < 7, targets.box_scale[:1], targets.box_scale[1:])
        l1 = ((found - wanted).abs() / scale).sum().item()
        assert losses[f"loss_l1{suffix}"].item() == pytest.approx(5 * l1 / (3 * 2), rel=1e-4)
        focal = class_loss(boxes.logits[stage], match).item()
        assert losses[f"loss_class{suffix}"].item() == pytest.approx(2 * focal / (3 * 2), rel=1e-4)


def test_parts_of_a_batch_add_up_to_its_losses():
    """As gradient accumulation needs it."""
    model = training_model("light", *MATCHED, *ANCHORED, *REGIONS, *MANY, *IMAGE)
    model.region_jitter = 0.0
    batch = tiny_batch(persons=(2, 1), sizes=((64, 96),) * 2)
    whole, parts = model(batch), [model([inputs], num_persons=3) for inputs in batch]
    for name, value in whole.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(value.item(), rel=1e-3, abs=1e-5), name


def test_the_exported_graph_computes_the_same(tmp_path):
    pytest.importorskip("onnx")
    from test_onnx_export import assert_same, exported, run_onnx

    model, file = exported(tmp_path, "light", *ANCHORED, *IMAGE)
    # larger images have more peaks than queries, the smallest one has fewer
    for batch, height, width in ((1, 64, 96), (2, 130, 95), (1, 8, 9)):
        images = (255 * torch.rand(batch, 3, height, width)).round()
        assert_same(model, run_onnx(file, images=images), list(images))
    images, sizes = (255 * torch.rand(2, 3, 90, 100)).round(), torch.tensor([[100.0, 61.0], [73.0, 90.0]])
    assert_same(model, run_onnx(file, images=images, image_sizes=sizes), [images[0, :, :61], images[1, :, :, :73]])


def test_checkpoints_from_before_the_keypoint_loss_owned_its_flow():
    model = tiny_model("light")
    old = {
        name.replace("criterion.keypoint_loss.flow", "criterion.flow"): value.clone()
        for name, value in model.state_dict().items()
    }
    weight = model.criterion.keypoint_loss.flow.scale[0][0].weight
    torch.nn.init.zeros_(weight)
    model.load_state_dict(old, strict=True)
    assert weight.any() and not [name for name in old if name.startswith(("image_queries", "one_to_many"))]
