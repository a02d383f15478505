"""Persons as supervision's KeyPoints and Detections: the numbers, and its annotators draw at the keypoints."""

import sys

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes

from querypose.data.crowdpose import CROWDPOSE_SKELETON
from querypose.errors import UserError
from querypose.structures import Persons


def persons(count):
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.rand(count, CROWDPOSE_SKELETON.num_keypoints, 3, generator=generator)
    keypoints[..., :2] = 10 + 80 * keypoints[..., :2]
    return Persons(
        (100, 120),
        CROWDPOSE_SKELETON,
        pred_boxes=Boxes(torch.tensor([[5.0, 6.0, 95.0, 97.0]]).repeat(count, 1)),
        scores=torch.rand(count, generator=generator),
        pred_classes=torch.zeros(count, dtype=torch.int64),
        pred_keypoints=keypoints,
    )


@pytest.mark.parametrize("count", [0, 2])
def test_numbers_and_annotators(count):
    sv = pytest.importorskip("supervision")
    found = persons(count)
    keypoints, detections = found.to_supervision(), found.to_detections()
    assert len(keypoints) == len(detections) == count
    assert np.array_equal(keypoints.xy, found.pred_keypoints[..., :2])
    assert np.array_equal(keypoints.keypoint_confidence, found.pred_keypoints[..., 2])
    assert np.array_equal(keypoints.detection_confidence, found.scores)
    assert np.array_equal(detections.xyxy, found.pred_boxes.tensor)
    assert np.array_equal(detections.confidence, found.scores)

    image = np.zeros((100, 120, 3), np.uint8)
    drawn = sv.VertexAnnotator(color=sv.Color(255, 255, 255), radius=1).annotate(image.copy(), keypoints)
    marked = {tuple(place) for place in np.argwhere(drawn.any(2))}
    places = found.pred_keypoints[..., [1, 0]].reshape(-1, 2).int().tolist()
    assert {tuple(place) for place in places} <= marked and bool(marked) == bool(count)
    edges = [(start + 1, end + 1) for start, end in found.skeleton.limbs]
    assert sv.EdgeAnnotator(edges=edges).annotate(image.copy(), keypoints).any() == bool(count)
    assert sv.BoxAnnotator().annotate(image.copy(), detections).any() == bool(count)


def test_changes_do_not_reach_the_persons():
    pytest.importorskip("supervision")
    found = persons(1)
    found.to_supervision().xy[:] = 0
    found.to_detections().xyxy[:] = 0
    assert found.pred_keypoints[..., :2].min() >= 10 and found.pred_boxes.tensor.min() == 5


def test_without_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="supervision is not installed: pip install"):
        persons(1).to_supervision()
