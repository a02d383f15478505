"""The complete model: training on batches of every kind, and `Instances` as Detectron2 defines them."""

import pytest
import torch
from detectron2.structures import Boxes, Instances, Keypoints
from tiny_model import NUM_QUERIES, gradients_of, spread, tiny_batch, tiny_model, without_batch_statistics

from querypose.errors import UserError

KEY = "MODEL.QUERYPOSE."
MATCHED = (f"{KEY}TRAIN_QUERIES", "matched")
ATTENTION = (f"{KEY}LOSS.ATTENTION_WEIGHT", 1.0)
BEYOND = (
    *(f"{KEY}ANCHORED_COORDINATES", True, f"{KEY}GROUND_TRUTH_REGIONS.COPIES", 2),
    *(f"{KEY}ONE_TO_MANY.NUM_QUERIES", 7, f"{KEY}IMAGE_QUERIES.ENABLED", True),
)
VARIANTS = {
    "light": ("light",),
    "full": ("full",),
    "quick start": (
        *("light", *MATCHED, *ATTENTION, f"{KEY}LOSS.HEATMAP_WEIGHT", 1.0),
        *(f"{KEY}PART_EMBEDDING", "CoordinateSPEGM"),
    ),
    "light beyond": ("light", *MATCHED, *ATTENTION, *BEYOND),
    "full beyond": ("full", *ATTENTION, *BEYOND),
}
KINDS = ("class", "l1", "giou", "keypoint")


def names_of_losses(model):
    """Those that a model with these options has."""
    kinds = {*KINDS, "attention"} if model.criterion.weights["attention"] else {*KINDS}
    kinds |= {f"{kind}_region" for kind in ("keypoint", "attention") if model.region_copies and kind in kinds}
    kinds |= {"class_many", "l1_many", "giou_many"} if model.one_to_many else set()
    names = {f"loss_{kind}{suffix}" for kind in kinds for suffix in ("", "_0")}
    names |= {"loss_heatmap"} if model.criterion.auxiliary_heatmap is not None else set()
    return names | ({"loss_center", "loss_center_size", "loss_center_offset"} if model.image_queries else set())


@pytest.fixture(scope="module", params=list(VARIANTS))
def model(request):
    return spread(tiny_model(*VARIANTS[request.param]))


def changed(boxes=lambda boxes: boxes, keypoints=lambda keypoints: keypoints):
    """An ordinary batch whose persons have these boxes and keypoints."""
    batch = tiny_batch()
    for persons in (inputs["instances"] for inputs in batch):
        persons.gt_boxes = Boxes(boxes(persons.gt_boxes.tensor))
        persons.gt_keypoints = Keypoints(keypoints(persons.gt_keypoints.tensor))
    return batch


BATCHES = {
    "ordinary": lambda: tiny_batch(),
    "nobody": lambda: tiny_batch(persons=(0, 0)),
    "nobody in one image": lambda: tiny_batch(persons=(0, 2)),
    "more persons than queries": lambda: tiny_batch(persons=(NUM_QUERIES + 3, 1)),
    "no visible keypoint": lambda: changed(keypoints=lambda points: points * torch.tensor([1.0, 1.0, 0.0])),
    "keypoints outside": lambda: changed(keypoints=lambda points: points + torch.tensor([5000.0, 5000.0, 0.0])),
    "boxes without area": lambda: changed(boxes=lambda boxes: boxes[:, [0, 1, 0, 1]]),
}
# the losses that such a batch cannot have
NO_LOSS = {
    "nobody": ("loss_l1", "loss_giou", "loss_keypoint"),
    "no visible keypoint": ("loss_keypoint",),
    "keypoints outside": ("loss_keypoint",),
}


@pytest.mark.parametrize("kind", list(BATCHES))
def test_every_parameter_learns_from_every_batch(model, kind):
    model.train()
    model.zero_grad(set_to_none=True)
    losses, gradients = gradients_of(model, BATCHES[kind]())
    assert losses.keys() == names_of_losses(model) and all(loss.isfinite() for loss in losses.values())
    for name, gradient in gradients.items():
        # None would stop distributed training, which waits for every parameter
        assert gradient is not None and gradient.isfinite().all(), name
    for name in losses:
        if name.startswith(NO_LOSS.get(kind, ())):
            assert losses[name].item() == 0.0, name
        elif kind == "ordinary":
            assert losses[name].item() != 0.0, name


@torch.no_grad()
def test_scores_and_coordinates_by_their_formulas(model):
    model.eval()
    inputs = tiny_batch()[:1]
    (plain,) = model(inputs, do_postprocess=False)
    assert isinstance(plain, Instances) and plain.image_size == (64, 96) and isinstance(plain.pred_boxes, Boxes)
    names = {"pred_boxes", "scores", "pred_classes", "pred_keypoints", "pred_keypoint_sigmas"}
    assert set(plain.get_fields()) == names and plain.pred_keypoints.shape == (NUM_QUERIES, 17, 3)
    assert not plain.pred_classes.any() and plain.pred_classes.dtype == torch.int64
    output, keypoints = model.decode(*model.extract(model.preprocess(inputs)))
    assert torch.equal(keypoints.rows, torch.arange(NUM_QUERIES))
    confidence = 1 - keypoints.sigmas[-1].mean(dim=2)
    scores = torch.sigmoid(output.logits[-1][0, :, 0]) * confidence.mean(dim=1)
    order = scores.argsort(descending=True)
    torch.testing.assert_close(plain.scores, scores[order])
    boxes = output.boxes[-1][0, order]
    torch.testing.assert_close(plain.pred_boxes.tensor, boxes)
    center, size = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2, boxes[:, None, 2:] - boxes[:, None, :2]
    torch.testing.assert_close(plain.pred_keypoints[..., :2], center + keypoints.coordinates[-1][order] * size)
    torch.testing.assert_close(plain.pred_keypoints[..., 2], confidence[order])
    torch.testing.assert_close(plain.pred_keypoint_sigmas, keypoints.sigmas[-1][order] * size)

    (scaled,) = model([inputs[0] | {"height": 128, "width": 288}])
    scaled = scaled["instances"]
    assert scaled.image_size == (128, 288)
    factor = torch.tensor([3.0, 2.0, 1.0])
    # postprocessing drops boxes that lie outside of the image
    kept = torch.isin(plain.scores, scaled.scores)
    assert len(scaled) == kept.sum() > 0
    torch.testing.assert_close(scaled.pred_keypoints, plain.pred_keypoints[kept] * factor)
    torch.testing.assert_close(scaled.pred_keypoint_sigmas, plain.pred_keypoint_sigmas[kept] * factor[:2])
    boxes = plain.pred_boxes.tensor[kept] * torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(scaled.pred_boxes.tensor, boxes.clamp(min=0).minimum(torch.tensor([288.0, 128] * 2)))


@torch.no_grad()
def test_numbers_that_are_not_finite(messages):
    model, image = spread(tiny_model("light")).eval(), {"image": torch.zeros(3, 64, 64), "file_name": "a.jpg"}
    (whole,) = model([image])
    stage, two = model.decoder.keypoint_stages[1], torch.tensor([2, 3])
    handle = stage.heads.register_forward_hook(
        lambda module, args, output: (output[0].index_fill_(0, two, torch.inf), output[1])
    )
    (result,) = model([image])
    assert len(result["instances"]) == len(whole["instances"]) - 2
    assert "a.jpg: left out 2 persons with coordinates that are not finite" in messages()
    handle.remove()
    for parameter in (model.decoder.box_stages[0].box_delta.bias, stage.heads.coordinate_bias):
        before = parameter.clone()
        parameter.fill_(torch.nan)
        with pytest.raises(UserError, match=r"MODEL\.WEIGHTS holds numbers that are not finite"):
            model([image])
        parameter.copy_(before)


@torch.no_grad()
def test_max_detections_keeps_the_best():
    model = spread(tiny_model("light")).eval()
    everyone, model.max_detections = model(tiny_batch(), do_postprocess=False), 2
    for all_results, results in zip(everyone, model(tiny_batch(), do_postprocess=False), strict=True):
        assert torch.equal(results.pred_keypoints, all_results.pred_keypoints[:2])


@pytest.mark.parametrize("variant", ["light", "full"])
@torch.no_grad()
def test_the_other_images_of_a_batch_change_nothing(variant):
    """Exactly so where the features of padding do not count: here the backbone's maps are replaced by noise."""
    model = spread(tiny_model(variant)).eval()
    noise = {f"p{level}": torch.randn(2, 16, 2 ** (7 - level), 2 ** (7 - level)) for level in (2, 3, 4, 5)}
    model.backbone.forward = lambda images: {name: maps[: len(images)] for name, maps in noise.items()}
    inputs = [{"image": torch.zeros(3, 128, 128)}, {"image": torch.zeros(3, 90, 100)}]
    (alone,), (beside, other) = model(inputs[:1], do_postprocess=False), model(inputs, do_postprocess=False)
    assert other.image_size == (90, 100) and not torch.equal(other.scores, alone.scores)
    for field in ("scores", "pred_keypoints"):
        torch.testing.assert_close(beside.get(field), alone.get(field), rtol=1e-4, atol=1e-3)


def test_preprocessing_normalizes_before_it_pads():
    inputs = tiny_batch(persons=(0, 0), sizes=((40, 50), (33, 64)))
    images = tiny_model().preprocess(inputs)
    assert images.tensor.shape == (2, 3, 64, 64) and images.image_sizes == [(40, 50), (33, 64)]
    assert not images.tensor[0, :, 40:].any() and not images.tensor[0, :, :, 50:].any()
    mean, std = (torch.tensor(rgb)[:, None, None] for rgb in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    torch.testing.assert_close(images.tensor[0, :, :40, :50], (inputs[0]["image"] - mean) / std)


@pytest.mark.parametrize("kind", list(VARIANTS))
def test_bfloat16_step_is_close_to_float32(kind):
    model = without_batch_statistics(spread(tiny_model(*VARIANTS[kind])))
    losses = {}
    for enabled in (False, True):
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses[enabled], gradients = gradients_of(model, tiny_batch())
        for name, gradient in gradients.items():
            assert gradient is not None and gradient.isfinite().all(), name
    for name, loss in losses[True].items():
        assert loss.dtype == torch.float32 and loss.isfinite()
        if "beyond" not in kind:  # whose peaks and regions may be others
            assert loss.item() == pytest.approx(losses[False][name].item(), rel=0.15), name


@torch.no_grad()
def test_channels_last_changes_no_number():
    wide = ("MODEL.TIMM.OPTIONS.channels", [16, 16, 16, 16])
    plain, other = (spread(tiny_model("full", "MODEL.CHANNELS_LAST", last, *wide)).eval() for last in (False, True))
    assert other.decoder.keypoint_stages[0].tower[0].weight.is_contiguous(memory_format=torch.channels_last)
    for result, wanted in zip(*(model(tiny_batch(), do_postprocess=False) for model in (other, plain)), strict=True):
        for field in ("scores", "pred_keypoints"):
            torch.testing.assert_close(result.get(field), wanted.get(field), rtol=1e-3, atol=1e-2)


def test_a_few_steps_learn_one_batch():
    model = tiny_model("light", *MATCHED).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch, totals = tiny_batch(), []
    for _ in range(30):
        optimizer.zero_grad()
        totals.append(sum(model(batch).values()))
        totals[-1].backward()
        optimizer.step()
    assert min(totals[-5:]) < 0.6 * totals[0]
