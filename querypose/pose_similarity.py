"""How similar the tracks of a video are to the persons of a frame: by place, and by the colors along their limbs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from supervision import box_iou_batch
from trackers.utils.iou import BaseIoU

from querypose.structures import Persons

_DISTANCE = 0.2  # standard deviation of a center from one frame to the next, in heights of the box
_GROWTH = 0.5  # of the logarithm of the height
_PER_SECOND = 10.0  # how much both grow with the time that a track was not seen
_COLOR_SCALE = 30.0
_UNKNOWN = 0.5  # factor of colors that cannot be compared
_ALONG = np.linspace(0.2, 0.8, 5)  # where the color of a limb is sampled
_MIN_CONFIDENCE = 0.3  # of both ends of a limb
_MAX_IOU = 0.3  # colors of persons who overlap more are not learned: they may be another's
_LEARNING_RATE = 0.1


@dataclass
class _Look:
    colors: np.ndarray  # (L, 3), of a track's limbs
    weights: np.ndarray  # (L,), how much of each was seen
    seconds: float  # when last


class PoseSimilarity(BaseIoU):
    """A similarity from 0 to 1 for the package `trackers`: exp(-(d / 0.2)^2 / 2s^2 - (g / 0.5)^2 / 2s^2 - c / 30).

    d is the distance of the centers of track and person in heights of the larger box, g the logarithm of the ratio of
    their heights, and s is 1 and 10 more for each second that the track was not seen. c is the mean absolute difference
    (0 to 255) of the colors of their limbs, or keypoints if there are no limbs; without an image, the factor is 0.5.
    """

    tracker: Any
    """Whose tracks are compared; it has this object as its `iou`."""

    def __init__(self) -> None:
        self._looks: dict[int, _Look] = {}

    def begin(self, persons: Persons, image: np.ndarray | None, seconds: float) -> None:
        """Before the tracker's update: persons, image (H, W, 3) and time of the frame."""
        self._boxes, self._seconds = persons.pred_boxes.tensor.numpy(), seconds
        self._colors, self._weights = _limb_colors(persons, image)

    def end(self, ids: np.ndarray) -> None:
        """After the tracker's update: the track of each person of the frame (n,), -1 for none."""
        alive = {track.tracker_id for track in self.tracker.tracks}
        self._looks = {key: look for key, look in self._looks.items() if key in alive}
        for person in np.flatnonzero(ids >= 0):
            colors, weights = self._colors[person], self._weights[person]
            look = self._looks.setdefault(int(ids[person]), _Look(colors, np.zeros_like(weights), self._seconds))
            look.seconds = self._seconds
            overlaps = np.delete(box_iou_batch(self._boxes[[person]], self._boxes)[0], person)
            if overlaps.max(initial=0) < _MAX_IOU or not look.weights.any():
                rates = np.maximum(weights / (look.weights + weights).clip(min=1e-9), _LEARNING_RATE * weights)
                look.colors = look.colors + rates[:, None] * (colors - look.colors)
                look.weights = look.weights + weights

    def _compute(self, boxes_1: np.ndarray, boxes_2: np.ndarray) -> np.ndarray:
        """(tracks, persons) similarities of the boxes (n, 4) of some tracks, where they are expected, and persons."""
        tracks = self.tracker.tracks
        rows = _rows(boxes_1, np.array([track.get_state_bbox() for track in tracks]))
        unseen = _Look(np.zeros(self._colors.shape[1:]), np.zeros(self._weights.shape[1]), self._seconds)
        looks = [self._looks.get(tracks[row].tracker_id, unseen) for row in rows]
        persons = _rows(boxes_2, self._boxes)

        centers_1, centers_2 = ((boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (boxes_1, boxes_2))
        heights_1, heights_2 = ((boxes[:, 3] - boxes[:, 1]).clip(min=1) for boxes in (boxes_1, boxes_2))
        distances = np.linalg.norm(centers_1[:, None] - centers_2, axis=2) / np.maximum(heights_1[:, None], heights_2)
        growths = np.log(heights_2 / heights_1[:, None])
        spreads = 1 + _PER_SECOND * np.array([[self._seconds - look.seconds] for look in looks])
        place = np.exp(-((distances / _DISTANCE) ** 2 + (growths / _GROWTH) ** 2) / spreads**2 / 2)

        differences = np.abs(np.stack([look.colors for look in looks])[:, None] - self._colors[persons]).mean(axis=3)
        weights = np.stack([look.weights for look in looks]).clip(max=1)[:, None] * self._weights[persons]
        total = weights.sum(axis=2)
        mean = (differences * weights).sum(axis=2) / total.clip(min=1e-9)
        return place * np.where(total > 0.5, np.exp(-mean / _COLOR_SCALE), _UNKNOWN)


def _rows(boxes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the known boxes (m, 4) each of the boxes (n, 4) is: (n,). Trackers pass on boxes alone."""
    return np.abs(boxes[:, None] - known).sum(axis=2).argmin(axis=1)


def _limb_colors(persons: Persons, image: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Median colors (n, L, 3) of the limbs, and the lower confidence of their ends (n, L), 0 where too low."""
    limbs = np.array(persons.skeleton.limbs or [(i, i) for i in range(persons.skeleton.num_keypoints)])
    keypoints = persons.pred_keypoints.numpy()
    ends = keypoints[:, limbs[:, 0]], keypoints[:, limbs[:, 1]]
    confidences = np.minimum(ends[0][..., 2], ends[1][..., 2])
    if image is None:
        return np.zeros((*confidences.shape, 3)), np.zeros_like(confidences)
    points = ends[0][:, :, None, :2] * (1 - _ALONG[:, None]) + ends[1][:, :, None, :2] * _ALONG[:, None]
    columns, rows = np.floor(points).astype(int).clip(0, (image.shape[1] - 1, image.shape[0] - 1)).transpose(3, 0, 1, 2)
    colors = np.median(image[rows, columns].astype(float), axis=2)
    return colors, np.where(confidences > _MIN_CONFIDENCE, confidences, 0)
