"""Persons as supervision's KeyPoints and Detections: the numbers, and its annotators draw at the keypoints."""

import sys

import numpy as np
import pytest
import torch
from hands import two_persons

from querypose.errors import UserError


@pytest.mark.parametrize("count", [0, 2])
def test_numbers_and_annotators(count):
    sv = pytest.importorskip("supervision")
    found = two_persons(pred_keypoint_sigmas=torch.rand(2, 2, 2))[:count]
    keypoints, detections = found.to_supervision(), found.to_detections()
    assert np.array_equal(keypoints.xy, found.pred_keypoints[..., :2])
    assert np.array_equal(keypoints.keypoint_confidence, found.pred_keypoints[..., 2])
    assert np.array_equal(keypoints.detection_confidence, found.scores)
    assert np.array_equal(keypoints.data["pred_keypoint_sigmas"], found.pred_keypoint_sigmas)
    assert np.array_equal(detections.xyxy, found.pred_boxes.tensor)
    assert np.array_equal(detections.confidence, found.scores)

    drawn = sv.VertexAnnotator(radius=1).annotate(np.zeros((60, 100, 3), np.uint8), keypoints)
    marked = {tuple(place) for place in np.argwhere(drawn.any(2))}
    places = found.pred_keypoints[..., [1, 0]].reshape(-1, 2).int().tolist()
    assert {tuple(place) for place in places} <= marked and bool(marked) == bool(count)
    assert sv.BoxAnnotator().annotate(np.zeros((60, 100, 3), np.uint8), detections).any() == bool(count)


def test_changes_do_not_reach_the_persons(monkeypatch):
    pytest.importorskip("supervision")
    found = two_persons()
    keypoints = found.to_supervision()
    keypoints.xy[:] = found.to_detections().xyxy[:] = 99
    assert found.pred_keypoints.max() < 99 and found.pred_boxes.tensor.max() < 99
    assert not keypoints.data, "no sigmas"
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="supervision is not installed: pip install"):
        found.to_supervision()
