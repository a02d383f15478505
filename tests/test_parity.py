"""Our model computes what the authors' code computes with the same weights, in both variants."""

import numpy as np
import pytest
import torch
import torchvision
from parity import load_parity

from querypose.conversion.authors import rename
from querypose.modeling.ops import pyramid_pooling


@pytest.fixture(scope="module", params=["light", "full"])
def parity(request, shared_folder):
    return load_parity(shared_folder, request.param)


def relative_error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module")
def features(parity):
    """What one batch is in eval mode: the feature maps and what else `extract` returns."""
    parity.model.eval()
    with torch.no_grad():
        return parity.model.extract(parity.model.preprocess(parity.inputs(training=False)))


def test_feature_maps(parity, features):
    # the figures are those of the first image alone, which is the larger one
    for level, feature in (("p2", features[0][0]), ("p5", features[0][3])):
        assert relative_error(feature[:1, :4], parity.figures[level]) < 1e-4


@torch.no_grad()
def test_every_stage_and_the_final_instances(parity, features):
    figures, model = parity.figures, parity.model
    model.eval()
    inputs = parity.inputs(training=False)
    boxes, keypoints = model.decode(*features)
    assert relative_error(torch.stack(boxes.logits), figures["logits"]) < 1e-4
    assert relative_error(torch.stack(boxes.boxes), figures["boxes"]) < 1e-4
    sigma = torch.stack(keypoints.sigmas).view(figures["sigma"].shape)
    pose = torch.stack(keypoints.coordinates).view(sigma.shape)
    assert relative_error(pose, figures["pose"][..., :2]) < 1e-4
    assert relative_error(sigma, figures["sigma"]) < 1e-4
    assert relative_error(1 - sigma.mean(dim=-1), figures["pose"][..., 2]) < 1e-4

    sizes = [tuple(entry["image"].shape[1:]) for entry in inputs]
    results = model.postprocess(model.inference(boxes, keypoints, sizes), inputs)
    for index, result in enumerate(results, start=1):
        ours = result["instances"]
        order = np.argsort(-figures[f"final{index}_scores"])
        assert relative_error(ours.scores, figures[f"final{index}_scores"][order]) < 1e-4
        assert relative_error(ours.pred_boxes.tensor, figures[f"final{index}_boxes"][order]) < 1e-4
        assert relative_error(ours.pred_keypoints, figures[f"final{index}_keypoints"][order]) < 1e-4


def torchvision_roi_align(feature, rois, size, scale, sampling_ratio):
    return torchvision.ops.roi_align(feature, rois, size, scale, sampling_ratio, aligned=True)


@pytest.fixture(scope="module")
def train_step(parity):
    """The losses of a batch, its matches, and the gradients in the model."""
    model, matches = parity.model.train(), []
    assign = model.criterion.matcher.assign
    # oneDNN's convolutions, and RoIAlign as rows of the map, round differently from what the authors' code ran on, by
    # enough to switch a ReLU near its kink
    with torch.backends.mkldnn.flags(enabled=False), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid_pooling, "roi_align", torchvision_roi_align)
        patch.setattr(model.criterion.matcher, "assign", lambda *args: matches.append(assign(*args)) or matches[0])
        losses = model(parity.inputs(training=True))
        sum(losses.values()).backward()
    return losses, matches[0]


def test_matches(parity, train_step):
    most = max(len(parity.figures[f"gt{index}_boxes"]) for index in (1, 2))
    for match, theirs in zip(train_step[1], parity.matches, strict=True):
        ours = {(int(row), int(person)) for row, person in zip(match.rows, match.persons, strict=True)}
        wanted = {
            (image * 12 + query, image * most + person)
            for image, (queries, persons) in enumerate(theirs)
            for query, person in zip(queries, persons, strict=True)
        }
        assert ours == wanted


def test_losses(parity, train_step):
    names = {"loss_ce": "loss_class", "loss_bbox": "loss_l1", "loss_giou": "loss_giou", "loss_kps": "loss_keypoint"}
    theirs = {}
    for name, value in parity.losses.items():
        stem = name.rstrip("_0123456789")
        theirs[names[stem] + name.removeprefix(stem)] = value
    assert {name: loss.item() for name, loss in train_step[0].items()} == pytest.approx(theirs, rel=1e-4)


def test_gradient_norms(parity, train_step):
    gradients = {name: parameter.grad for name, parameter in parity.model.named_parameters() if parameter.requires_grad}
    largest, seen = max(parity.grad_norms.values()), set()
    for name, theirs in parity.grad_norms.items():
        ours, part = rename(name)
        gradient = gradients[ours]
        if part is not None:
            keypoints = [index for index, other in enumerate(parity.part_of_keypoint) if other == part]
            gradient = gradient[keypoints if ".heads." in ours else part]
        # what is zero but for rounding (biases before a norm) is compared on the scale of the largest
        assert gradient.double().norm().item() == pytest.approx(theirs, rel=1e-3, abs=1e-8 * largest), name
        seen.add(ours)
    assert seen == gradients.keys(), "a parameter of ours has no counterpart"
