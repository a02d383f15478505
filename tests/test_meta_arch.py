"""The whole model: training on whatever a batch may hold, and instances in Detectron2's terms."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances, Keypoints
from tiny_model import BODY_NAMES, NUM_QUERIES, spread, tiny_batch, tiny_model, without_batch_statistics
from torch import nn
from torch.nn import functional as F

from querypose.benchmark.clock import peak_tensor_memory_mb
from querypose.errors import UserError
from querypose.modeling.losses.matcher import Match

VARIANTS = {
    "light": ("light",),
    "light matched": ("light", "MODEL.QUERYPOSE.TRAIN_QUERIES", "matched"),
    "full": ("full",),
    "quick start": (
        *("light", "MODEL.QUERYPOSE.TRAIN_QUERIES", "matched", "MODEL.QUERYPOSE.AUX_HEATMAP", True),
        *("MODEL.QUERYPOSE.PART_EMBEDDING", "CoordinateSPEGM"),
        *("MODEL.QUERYPOSE.AUX_ATTENTION", True),
    ),
}
LOSSES = {f"loss_{kind}{suffix}" for kind in ("class", "l1", "giou", "keypoint") for suffix in ("", "_0")}


@pytest.fixture(scope="module", params=list(VARIANTS))
def model(request):
    return spread(tiny_model(*VARIANTS[request.param]))


def change_persons(batch, boxes=None, keypoints=None):
    for inputs in batch:
        persons = inputs["instances"]
        if boxes is not None:
            persons.gt_boxes = Boxes(boxes(persons.gt_boxes.tensor))
        if keypoints is not None:
            persons.gt_keypoints = Keypoints(keypoints(persons.gt_keypoints.tensor))
    return batch


def invisible(keypoints):
    return keypoints * torch.tensor([1.0, 1.0, 0.0])


def far_away(keypoints):
    return keypoints + torch.tensor([5000.0, 5000.0, 0.0])


def without_area(boxes):
    return boxes[:, [0, 1, 0, 1]]


BATCHES = {
    "ordinary": lambda: tiny_batch(),
    "nobody": lambda: tiny_batch(persons=(0, 0)),
    "nobody in one image": lambda: tiny_batch(persons=(0, 2)),
    "more persons than queries": lambda: tiny_batch(persons=(NUM_QUERIES + 3, 1)),
    "no visible keypoint": lambda: change_persons(tiny_batch(), keypoints=invisible),
    "keypoints outside every box": lambda: change_persons(tiny_batch(), keypoints=far_away),
    "boxes without area": lambda: change_persons(tiny_batch(), boxes=without_area),
    "a single image": lambda: tiny_batch(persons=(1,), sizes=((64, 64),)),
}

# the losses that such a batch cannot have
NO_LOSS = {
    "nobody": ("loss_l1", "loss_giou", "loss_keypoint"),
    "no visible keypoint": ("loss_keypoint",),
    "keypoints outside every box": ("loss_keypoint",),
}


@pytest.mark.parametrize("kind", list(BATCHES))
def test_every_parameter_learns_from_every_batch(model, kind):
    model.train()
    model.zero_grad(set_to_none=True)
    losses = model(BATCHES[kind]())
    auxiliary = {"loss_heatmap"} if model.criterion.auxiliary_heatmap is not None else set()
    auxiliary |= {"loss_attention", "loss_attention_0"} if model.criterion.attention_weight else set()
    assert losses.keys() == LOSSES | auxiliary and all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # None would stop distributed training, which waits for every parameter
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    for name in losses:
        if name.startswith(NO_LOSS.get(kind, ())):
            assert losses[name].item() == 0.0, name
        elif kind == "ordinary":
            assert losses[name].item() != 0.0, name


@pytest.mark.parametrize("persons", [(2, 3), (0, 1), (0, 0)])
def test_matched_queries_alone_train_the_keypoint_stages_as_all_do(persons):
    results = []
    for kind in ("light", "light matched"):
        model = without_batch_statistics(spread(tiny_model(*VARIANTS[kind])))
        losses = model(tiny_batch(persons=persons))
        sum(losses.values()).backward()
        results.append((losses, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    (losses, gradients), (matched_losses, matched_gradients) = results
    assert losses.keys() == matched_losses.keys()
    for name, value in losses.items():
        assert matched_losses[name].item() == pytest.approx(value.item(), rel=1e-4), name
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(matched_gradients[name], gradient, rtol=1e-4, atol=1e-6 * largest.item(), msg=name)
    if persons == (2, 3):
        assert losses["loss_keypoint"].item() != 0


def test_a_stage_runs_the_queries_matched_at_it_or_later(monkeypatch):
    """Three stages that match other queries each: the losses and gradients of all, of 4, 3 and 2 queries."""
    first, second, third = [1, 2], [2, 4], [0, 4]
    pairs = [Match(torch.tensor(rows), torch.tensor([0, 1])) for rows in (first, second, third)]
    results, rows = [], []
    for kind in ("light", "light matched"):
        model = without_batch_statistics(spread(tiny_model(*VARIANTS[kind], "MODEL.QUERYPOSE.NUM_STAGES", 3)))
        monkeypatch.setattr(model.criterion.matcher, "assign", lambda *_: pairs)
        for stage in model.decoder.keypoint_stages:
            stage.tower.register_forward_hook(lambda module, args, out: rows.append(len(out)))
        losses = model(tiny_batch(persons=(2, 0)))
        sum(losses.values()).backward()
        results.append((losses, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    assert rows == [2 * NUM_QUERIES] * 3 + [4, 3, 2]
    (losses, gradients), (matched_losses, matched_gradients) = results
    for name, value in losses.items():
        assert matched_losses[name].item() == pytest.approx(value.item(), rel=1e-4), name
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(matched_gradients[name], gradient, rtol=1e-4, atol=1e-6 * largest.item(), msg=name)


def test_matched_training_runs_the_matched_queries_alone():
    model = spread(tiny_model(*VARIANTS["light matched"])).train()
    rows = []
    for stage in model.decoder.keypoint_stages:
        stage.tower.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    model(tiny_batch(persons=(2, 1)))
    model(tiny_batch(persons=(0, 0)))
    # two stages may match three persons to six queries
    assert 3 <= rows[0] <= 6 and rows[1:] == [3, 1, 1]


@torch.no_grad()
def test_instances_in_detectron2_s_terms(model):
    model.eval()
    results = model(tiny_batch())
    assert len(results) == 2
    for result, (height, width) in zip(results, ((64, 96), (96, 64)), strict=True):
        instances = result["instances"]
        assert instances.image_size == (height, width)
        assert set(instances.get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_keypoints"}
        assert len(instances) == NUM_QUERIES and instances.pred_keypoints.shape == (NUM_QUERIES, 17, 3)
        assert isinstance(instances.pred_boxes, Boxes)
        assert (instances.scores.diff() <= 0).all()
        assert not instances.pred_classes.any() and instances.pred_classes.dtype == torch.int64
        confidence = instances.pred_keypoints[..., 2]
        assert ((confidence > 0) & (confidence < 1)).all()
        assert (instances.scores <= confidence.mean(dim=1) + 1e-6).all()


@torch.no_grad()
def test_scores_and_coordinates_by_their_formulas(model):
    model.eval()
    inputs = tiny_batch()[:1]
    (plain,) = model(inputs, do_postprocess=False)
    assert isinstance(plain, Instances)
    images = model.preprocess(inputs)
    features = model.backbone(images.tensor)
    output = model.decoder([features[name] for name in model.in_features], torch.tensor([[96.0, 64.0]]))
    confidence = 1 - output.sigmas[-1].mean(dim=2)
    scores = torch.sigmoid(output.logits[-1][0, :, 0]) * confidence.mean(dim=1)
    order = scores.argsort(descending=True)
    torch.testing.assert_close(plain.scores, scores[order])
    boxes = output.boxes[-1][0, order]
    torch.testing.assert_close(plain.pred_boxes.tensor, boxes)
    center, size = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2, boxes[:, None, 2:] - boxes[:, None, :2]
    torch.testing.assert_close(plain.pred_keypoints[..., :2], center + output.coordinates[-1][order] * size)
    torch.testing.assert_close(plain.pred_keypoints[..., 2], confidence[order])


@torch.no_grad()
def test_coordinates_scale_to_the_wanted_size(model):
    model.eval()
    inputs = tiny_batch()[:1]
    (plain,) = model(inputs, do_postprocess=False)
    inputs[0] |= {"height": 128, "width": 288}
    (scaled,) = model(inputs)
    scaled = scaled["instances"]
    assert scaled.image_size == (128, 288)
    factor = torch.tensor([3.0, 2.0, 1.0])
    # postprocessing drops boxes that lie outside of the image
    kept = torch.isin(plain.scores, scaled.scores)
    assert len(scaled) == kept.sum() > 0
    torch.testing.assert_close(scaled.pred_keypoints, plain.pred_keypoints[kept] * factor)
    boxes = plain.pred_boxes.tensor[kept] * torch.tensor([3.0, 2.0, 3.0, 2.0])
    boxes[:, 0::2].clamp_(0, 288)
    boxes[:, 1::2].clamp_(0, 128)
    torch.testing.assert_close(scaled.pred_boxes.tensor, boxes)


@torch.no_grad()
@pytest.mark.parametrize("broken", ["box_stages.0", "keypoint_stages.1"])
def test_weights_that_are_not_finite_are_named(broken):
    model = tiny_model("light").eval()
    parameters = [p for name, p in model.named_parameters() if name.startswith(f"decoder.{broken}")]
    with torch.no_grad():
        parameters[-1].fill_(float("nan"))
    with pytest.raises(UserError, match=r"not finite: MODEL\.WEIGHTS holds such numbers"):
        model([{"image": torch.zeros(3, 64, 64)}])


@torch.no_grad()
def test_predictions_that_are_not_finite_may_be_left_out(messages):
    """As evaluations during training do under SOLVER.NON_FINITE skip."""
    model = spread(tiny_model("light")).eval()
    wanted = model([{"image": torch.zeros(3, 64, 64)}])[0]["instances"]
    inference = model.inference

    def with_nan(*args):
        (results,) = inference(*args)
        results.pred_keypoints[1, 2, 0] = torch.nan
        return [results]

    model.inference = with_nan
    with pytest.raises(UserError, match="not finite"):
        model([{"image": torch.zeros(3, 64, 64)}])
    model.drop_non_finite = True
    found = model([{"image": torch.zeros(3, 64, 64)}])[0]["instances"]
    assert "left out 1 predictions that are not finite" in messages()
    assert torch.equal(found.pred_keypoints, wanted.pred_keypoints[[0, *range(2, len(wanted))]])


def test_max_detections_keeps_the_best():
    everyone = spread(tiny_model("light")).eval()
    few = spread(tiny_model("light", "TEST.DETECTIONS_PER_IMAGE", 2)).eval()
    for all_results, results in zip(everyone(tiny_batch()), few(tiny_batch()), strict=True):
        assert torch.equal(results["instances"].scores, all_results["instances"].scores[:2])


@pytest.mark.parametrize("topk", [1, 4, 50])
@torch.no_grad()
def test_topk_poses_are_those_of_the_exhaustive_run(topk):
    everyone = spread(tiny_model("light")).eval()
    few = spread(tiny_model("light", "MODEL.QUERYPOSE.TEST.TOPK_POSES", topk)).eval()
    rows = []
    few.decoder.keypoint_stages[0].tower.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    wanted = everyone(tiny_batch(), do_postprocess=False)
    kept = few(tiny_batch(), do_postprocess=False)
    number = min(topk, NUM_QUERIES)
    assert rows == [2 * number]
    for all_results, results in zip(wanted, kept, strict=True):
        assert len(results) == number
        # by class score: a person's score over the mean confidence of its keypoints
        class_scores = all_results.scores / all_results.pred_keypoints[..., 2].mean(dim=1)
        best = torch.isin(torch.arange(NUM_QUERIES), class_scores.topk(number).indices)
        torch.testing.assert_close(results.scores, all_results.scores[best], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(results.pred_boxes.tensor, all_results.pred_boxes.tensor[best])
        torch.testing.assert_close(results.pred_keypoints, all_results.pred_keypoints[best], rtol=1e-5, atol=1e-4)


class PatchBackbone(Backbone):
    """Features of each patch by itself and zero where the image is zero: padding stays invisible."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, kernel_size=4, stride=4, bias=False)
        self._out_features = ["p2", "p3", "p4", "p5"]
        self._out_feature_strides = {f"p{level}": 2**level for level in (2, 3, 4, 5)}
        self._out_feature_channels = dict.fromkeys(self._out_features, 16)

    @property
    def size_divisibility(self):
        return 32

    def output_shape(self):
        return {name: ShapeSpec(channels=16, stride=stride) for name, stride in self._out_feature_strides.items()}

    def forward(self, image):
        finest = self.patch(image)
        return {f"p{level}": F.avg_pool2d(finest, 2 ** (level - 2)) for level in (2, 3, 4, 5)}


@pytest.mark.parametrize("variant", ["light", "full"])
@torch.no_grad()
def test_the_other_images_of_a_batch_change_nothing(variant):
    """With features that do not see beyond a patch, and boxes inside the image, this holds exactly."""
    model = spread(tiny_model(variant)).eval()
    model.backbone = PatchBackbone()
    for stage in model.decoder.box_stages:
        stage.box_delta.weight.mul_(0.05)
    model.decoder.proposal_boxes.weight[:, 2:].mul_(0.6)
    small, large = tiny_batch(persons=(1, 1), sizes=((64, 96), (128, 160)))
    (alone,) = model([small], do_postprocess=False)
    beside_another = model([small, large], do_postprocess=False)[0]
    assert alone.image_size == beside_another.image_size == (64, 96)
    box = alone.pred_boxes.tensor
    assert (box >= 2).all() and (box[:, 2] <= 94).all() and (box[:, 3] <= 62).all(), "not the case that is exact"
    for field in ("scores", "pred_keypoints"):
        torch.testing.assert_close(beside_another.get(field), alone.get(field), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(beside_another.pred_boxes.tensor, box, rtol=1e-4, atol=1e-3)


def test_preprocessing_normalises_before_it_pads(model):
    images = model.preprocess(tiny_batch(persons=(0, 0), sizes=((40, 50), (33, 64))))
    assert images.tensor.shape == (2, 3, 64, 64) and images.image_sizes == [(40, 50), (33, 64)]
    assert not images.tensor[0, :, 40:].any() and not images.tensor[0, :, :, 50:].any()
    raw = tiny_batch(persons=(0, 0), sizes=((40, 50), (33, 64)))[0]["image"].double()
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (raw - mean.double()[:, None, None]) / std.double()[:, None, None]
    torch.testing.assert_close(images.tensor[0, :, :40, :50], expected.float())


@pytest.mark.parametrize("kind", list(VARIANTS))
def test_bfloat16_step_is_close_to_float32(kind):
    model = without_batch_statistics(spread(tiny_model(*VARIANTS[kind])))
    losses = {}
    for enabled in (False, True):
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses[enabled] = model(tiny_batch())
        sum(losses[enabled].values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    for name, loss in losses[True].items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(losses[False][name].item(), rel=0.15), name


@torch.no_grad()
def test_channels_last_changes_no_number():
    wide = ("MODEL.TIMM.OPTIONS.channels", [16, 16, 16, 16])
    plain = spread(tiny_model("full", "MODEL.CHANNELS_LAST", False, *wide)).eval()
    other = spread(tiny_model("full", "MODEL.CHANNELS_LAST", True, *wide)).eval()
    assert other.decoder.keypoint_stages[0].tower[0].weight.is_contiguous(memory_format=torch.channels_last)
    for result, wanted in zip(other(tiny_batch()), plain(tiny_batch()), strict=True):
        for field in ("scores", "pred_keypoints"):
            torch.testing.assert_close(
                result["instances"].get(field), wanted["instances"].get(field), rtol=1e-3, atol=1e-2
            )


def resnet_model(*opts):
    return tiny_model(
        "light", "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", 50,
        "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
        "MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], *opts,
    )  # fmt: skip


def test_checkpointing_a_resnet_changes_no_number_and_saves_memory():
    plain, saving = resnet_model(), resnet_model("MODEL.RESNETS.ACTIVATION_CHECKPOINTING", True)
    assert list(saving.state_dict()) == list(plain.state_dict())
    image = torch.randn(2, 3, 512, 512)
    memory = []
    for model in (plain, saving):

        def step(backbone=model.backbone):
            sum(maps.square().mean() for maps in backbone(image).values()).backward()

        model.zero_grad()
        memory.append(peak_tensor_memory_mb(step, "cpu", []))
    for (name, ours), theirs in zip(saving.backbone.named_parameters(), plain.backbone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    assert memory[1] < 0.8 * memory[0]


def test_checkpointing_of_resnets_is_for_resnets():
    with pytest.raises(UserError, match="ACTIVATION_CHECKPOINTING is True, but MODEL.BACKBONE.NAME names no ResNet"):
        tiny_model("light", "MODEL.RESNETS.ACTIVATION_CHECKPOINTING", True)


def test_another_skeleton_by_its_names_alone():
    groups = [["head", "neck"], ["left_hand"], ["right_hand"], ["left_foot", "right_foot"]]
    model = tiny_model(
        "full",
        "MODEL.QUERYPOSE.SKELETON.KEYPOINT_NAMES",
        BODY_NAMES,
        "MODEL.QUERYPOSE.PART_GROUPS",
        groups,
    )
    assert model.decoder.part_queries.weight.shape == (4, 16)
    losses = model.train()(tiny_batch(num_keypoints=6))
    assert all(loss.isfinite() for loss in losses.values())
    result = model.eval()(tiny_batch(num_keypoints=6), do_postprocess=False)[0]
    assert result.pred_keypoints.shape == (NUM_QUERIES, 6, 3)


def test_a_few_steps_learn_one_batch():
    model = tiny_model("light", "MODEL.QUERYPOSE.TRAIN_QUERIES", "matched").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch, totals = tiny_batch(), []
    for _ in range(30):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert min(totals[-5:]) < 0.6 * totals[0]
