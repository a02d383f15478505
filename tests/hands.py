"""Persons of two keypoints, for tests of what is done with persons."""

import torch
from detectron2.structures import Boxes

from querypose import Persons
from querypose.skeleton import Skeleton

HANDS = Skeleton(("left_hand", "right_hand"), (("left_hand", "right_hand"),), ((0, 1),), (0.05, 0.05))


def two_persons(image_size=(60, 100), **fields):
    """Persons in an image of that height and width, with more fields of two items."""
    return Persons(
        image_size,
        HANDS,
        pred_boxes=Boxes(torch.tensor([[5.0, 10.0, 55.0, 40.0], [0.0, 0.0, 8.0, 8.0]])),
        scores=torch.tensor([0.75, 0.5]),
        pred_classes=torch.tensor([0, 0]),
        pred_keypoints=torch.tensor([[[10.5, 20.5, 1.0], [50.5, 20.5, 0.75]], [[1.0, 2.0, 0.5]] * 2]),
        **fields,
    )
