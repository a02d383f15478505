"""The ground truth of images beside the predictions of one or several models."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from querypose.image_io import read_image_rgb
from querypose.skeleton import Skeleton
from querypose.structures import SCORE_THRESHOLD, Persons
from querypose.visualization.contact_sheet import contact_sheet
from querypose.visualization.draw_poses import draw_poses
from querypose.visualization.poses import Poses


def prediction_sheet(
    records: Iterable[dict[str, Any]],
    predictors: Mapping[str, Callable[[np.ndarray], Persons]],
    skeleton: Skeleton,
    *,
    score_threshold: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """A row of each image, Detectron2's dataset dict, with the poses of each predictor, by its heading.

    Returns one (H, W, 3) uint8 RGB image.
    """
    rows = []
    for record in records:
        image = read_image_rgb(record["file_name"])
        truth = Poses.from_dataset_record(record, skeleton.num_keypoints)
        found = [truth, *(predict(image) for predict in predictors.values())]
        rows.append([draw_poses(image, poses, skeleton, score_threshold=score_threshold) for poses in found])
    return contact_sheet(rows, columns=2, cell_size=(400, 320), headings=("ground truth", *predictors))
