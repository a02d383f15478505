"""Ground truth of different sizes in one tensor."""

import torch
from detectron2.structures import Boxes, Instances, Keypoints

from querypose.modeling.losses.targets import Targets


def image_of(height, width, boxes, keypoints=None):
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    if keypoints is not None:
        instances.gt_keypoints = Keypoints(torch.tensor(keypoints, dtype=torch.float32).reshape(len(boxes), 2, 3))
    return instances


def test_padding_and_scale():
    first = image_of(10, 20, [[1, 2, 3, 4]], [[5, 6, 2, 7, 8, 1]])
    second = image_of(30, 40, [[0, 0, 9, 9], [1, 1, 2, 2]], [[1, 1, 1, 2, 2, 2], [3, 3, 0, 4, 4, 2]])
    targets = Targets.from_instances([first, second, image_of(5, 6, [])], 2, torch.device("cpu"))
    padding = [0.0, 0.0, 1.0, 1.0]
    assert targets.counts == [1, 2, 0]
    wanted = [[[1, 2, 3, 4], padding], [[0, 0, 9, 9], [1, 1, 2, 2]], [padding, padding]]
    assert targets.boxes.tolist() == wanted
    assert targets.keypoints.shape == (3, 2, 2, 3)
    assert targets.keypoints[0, 0].tolist() == [[5, 6, 2], [7, 8, 1]]
    assert targets.keypoints[1, 1].tolist() == [[3, 3, 0], [4, 4, 2]]
    assert not targets.keypoints[0, 1].any() and not targets.keypoints[2].any()
    # width, height, width, height
    assert targets.box_scale.tolist() == [[20, 10, 20, 10], [40, 30, 40, 30], [6, 5, 6, 5]]


def test_nobody_anywhere():
    targets = Targets.from_instances([image_of(10, 20, []), image_of(30, 40, [], [])], 17, torch.device("cpu"))
    assert targets.counts == [0, 0]
    assert targets.boxes.shape == (2, 1, 4) and targets.keypoints.shape == (2, 1, 17, 3)
