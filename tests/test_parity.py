"""Our model computes what the authors' code computes with the same weights, in both variants."""

import numpy as np
import pytest
import torch
import torchvision
from parity import load_parity

from querypose.conversion.authors import rename
from querypose.modeling.losses.targets import Targets
from querypose.modeling.ops import pyramid_pooling


@pytest.fixture(scope="module", params=["light", "full"])
def parity(request, shared_folder):
    return load_parity(shared_folder, request.param)


def relative_error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module")
def eval_output(parity):
    parity.model.eval()
    images = parity.model.preprocess(parity.inputs(training=False))
    with torch.no_grad():
        return parity.model.decode(*parity.model.extract(images))


@torch.no_grad()
def test_feature_maps(parity):
    parity.model.eval()
    features = parity.model.backbone(parity.model.preprocess(parity.inputs(training=False)[:1]).tensor)
    for level in ("p2", "p5"):
        assert relative_error(features[level][:, :4], parity.figures[level]) < 1e-4


def test_every_stage_in_eval_mode(parity, eval_output):
    box_output, keypoint_output = eval_output
    logits, boxes = torch.stack(box_output.logits), torch.stack(box_output.boxes)
    assert relative_error(logits, parity.figures["logits"]) < 1e-4
    assert relative_error(boxes, parity.figures["boxes"]) < 1e-4
    pose = torch.stack(keypoint_output.coordinates).view(parity.figures["pose"][..., :2].shape)
    sigma = torch.stack(keypoint_output.sigmas).view(parity.figures["sigma"].shape)
    assert relative_error(pose, parity.figures["pose"][..., :2]) < 1e-4
    assert relative_error(sigma, parity.figures["sigma"]) < 1e-4
    assert relative_error(1 - sigma.mean(dim=-1), parity.figures["pose"][..., 2]) < 1e-4


@torch.no_grad()
def test_final_instances(parity):
    parity.model.eval()
    results = parity.model(parity.inputs(training=False))
    for index, result in enumerate(results, start=1):
        ours = result["instances"]
        order = np.argsort(-parity.figures[f"final{index}_scores"])
        assert relative_error(ours.scores, parity.figures[f"final{index}_scores"][order]) < 1e-4
        assert relative_error(ours.pred_boxes.tensor, parity.figures[f"final{index}_boxes"][order]) < 1e-4
        assert relative_error(ours.pred_keypoints, parity.figures[f"final{index}_keypoints"][order]) < 1e-4


def test_matches(parity):
    parity.model.train()
    inputs = parity.inputs(training=True)
    images = parity.model.preprocess(inputs)
    targets = Targets.from_instances([entry["instances"] for entry in inputs], parity.model.num_keypoints, "cpu")
    with torch.no_grad():
        output, _ = parity.model.decode(*parity.model.extract(images))
    most = targets.boxes.shape[1]
    for match, theirs in zip(
        parity.model.criterion.matcher(output.logits, output.boxes, targets), parity.matches, strict=True
    ):
        ours = {(int(row), int(person)) for row, person in zip(match.rows, match.persons, strict=True)}
        wanted = {
            (image * 12 + query, image * most + person)
            for image, (queries, persons) in enumerate(theirs)
            for query, person in zip(queries, persons, strict=True)
        }
        assert ours == wanted


def torchvision_roi_align(feature, rois, size, scale, sampling_ratio):
    return torchvision.ops.roi_align(feature, rois, size, scale, sampling_ratio, aligned=True)


@pytest.fixture(scope="module")
def train_step(parity):
    parity.model.train()
    parity.model.zero_grad()
    # oneDNN's convolutions, and RoIAlign as rows of the map, round differently from what the authors' code ran on, by
    # enough to switch a ReLU near its kink
    with torch.backends.mkldnn.flags(enabled=False), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid_pooling, "roi_align", torchvision_roi_align)
        losses = parity.model(parity.inputs(training=True))
        sum(losses.values()).backward()
    return losses


def test_losses(parity, train_step):
    names = {
        "loss_ce": "loss_class",
        "loss_bbox": "loss_l1",
        "loss_giou": "loss_giou",
        "loss_kps": "loss_keypoint",
    }
    theirs = {}
    for name, value in parity.losses.items():
        stem, _, stage = name.rpartition("_") if name[-1].isdigit() else (name, "", "")
        theirs[names[stem] + (f"_{stage}" if stage else "")] = value
    assert set(theirs) == set(train_step)
    for name, value in theirs.items():
        assert train_step[name].item() == pytest.approx(value, rel=1e-4), name


def test_gradient_norms(parity, train_step):
    parameters = dict(parity.model.named_parameters())
    largest = max(parity.grad_norms.values())
    checked = 0
    for name, theirs in parity.grad_norms.items():
        ours, part = rename(name)
        gradient = parameters[ours].grad
        if part is not None:
            keypoints = [index for index, other in enumerate(parity.part_of_keypoint) if other == part]
            gradient = gradient[keypoints if ".heads." in ours else part]
        # what is zero but for rounding (biases before a norm) is compared on the scale of the largest
        assert gradient.double().norm().item() == pytest.approx(theirs, rel=1e-3, abs=1e-8 * largest), name
        checked += 1
    assert checked == len(parity.grad_norms)
    trainable = sum(parameter.requires_grad for parameter in parameters.values())
    assert trainable == len({rename(name)[0] for name in parity.grad_norms}), "a parameter of ours has no counterpart"
