"""Identities of persons in a video, by the package `trackers`, and keypoints without jitter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from querypose.errors import imported
from querypose.structures import Persons

MIN_SCORE = 0.3  # of a new person
LOW_SCORE = 0.1  # of a person who is followed: find persons down to it where they are to be tracked


class PoseTracker:
    """Gives the persons of successive frames identities, and smooths their keypoints.

    Persons are matched by `PoseSimilarity`: by place and by the colors along their limbs. One who is hidden or gone for
    longer than `max_gap` seconds gets a new id.
    """

    def __init__(
        self,
        tracker: Any = None,
        *,
        frame_rate: float = 25.0,
        min_score: float = MIN_SCORE,
        max_gap: float = 2.0,
        smooth: bool = False,
    ):
        """
        Args:
            tracker: one of the package `trackers`, such as `OCSORTTracker()`, with its own similarity; None: ByteTrack.
            frame_rate: frames per second where `update` gets no time.
            min_score: of a new person; who has an id keeps it at a lower score too. As `max_gap`, of ByteTrack only.
            smooth: filter every keypoint, see `OneEuroFilter`.
        """
        self._similarity = None
        if tracker is None:
            trackers = imported("trackers", "'supervision>=0.29' rich && pip install --no-deps 'trackers>=2.6'")
            from querypose.pose_similarity import PoseSimilarity

            self._similarity = PoseSimilarity()
            tracker = self._similarity.tracker = trackers.ByteTrackTracker(
                lost_track_buffer=round(30 * max_gap),  # in frames of 1/30 second, whatever the frame rate
                frame_rate=frame_rate,
                track_activation_threshold=min_score,
                high_conf_det_threshold=min_score,
                iou=self._similarity,
            )
        self.tracker, self.frame_rate, self.min_score = tracker, frame_rate, min_score
        self.max_gap, self.smooth = max_gap, smooth
        self._seconds, self._first_id, self._last_id = 0.0, 1, 0
        self._filters: dict[int, OneEuroFilter] = {}

    def reset(self) -> None:
        """Forget all persons, as between two videos; ids are not used again."""
        self.tracker.reset()
        self._filters.clear()
        self._seconds, self._first_id = 0.0, self._last_id + 1

    def update(self, persons: Persons, seconds: float | None = None, image: np.ndarray | None = None) -> Persons:
        """The persons of the next frame with `track_ids` (n,) from 1; -1: too low a score, or seen for the first time.

        seconds: the frame's time, later than the last one's; None: a frame of `frame_rate` later. image: (H, W, 3)
        uint8; without it, colors do not count.
        """
        self._seconds = self._seconds + 1 / self.frame_rate if seconds is None else seconds
        detections = persons.to_detections()
        detections.data["index"] = np.arange(len(persons))
        if self._similarity is not None:
            self._similarity.begin(persons, image, self._seconds)
            detections = detections.with_nms(0.7, class_agnostic=True)  # of persons who overlap more, only the best
        tracked = self.tracker.update(detections, timestamp=seconds)
        ids = np.full(len(persons), -1)
        if len(tracked):
            ids[tracked.data["index"]] = tracked.tracker_id
        if self._similarity is not None:
            self._similarity.end(ids)
        ids = np.where(ids < 0, -1, ids + self._first_id)
        self._last_id = max(self._last_id, *ids.tolist(), 0)
        result = Persons.from_instances(persons, persons.skeleton)
        result.track_ids = torch.from_numpy(ids)
        if self.smooth:
            result.pred_keypoints = self._smoothed(result)
        return result

    def _smoothed(self, persons: Persons) -> torch.Tensor:
        keypoints = persons.pred_keypoints.clone()
        sizes = persons.pred_boxes.area().clamp(min=1).sqrt().tolist()
        for index, track_id in enumerate(persons.track_ids.tolist()):
            if track_id >= 0:
                one_euro = self._filters.setdefault(track_id, OneEuroFilter())
                points = keypoints[index].double().numpy()
                smoothed = one_euro(points[:, :2], points[:, 2], self._seconds, sizes[index])
                keypoints[index, :, :2] = torch.from_numpy(smoothed)
        oldest = self._seconds - self.max_gap
        self._filters = {key: one_euro for key, one_euro in self._filters.items() if one_euro.seconds >= oldest}
        return keypoints


class OneEuroFilter:
    """Smooths points over time: little jitter at rest, little lag in motion (Casiez et al., CHI 2012).

    A first-order low-pass filter whose cutoff frequency is `min_cutoff` (Hz) at rest and grows by `beta` Hz with every
    unit of speed (lengths of `scale` per second). With gain a = 1 / (1 + 1 / (2 pi cutoff dt)) and confidence c, the
    estimate moves by c a of the way to the measurement; `speed_cutoff` (Hz) smooths the speed likewise.
    """

    def __init__(self, *, min_cutoff: float = 1.0, beta: float = 8.0, speed_cutoff: float = 0.5):
        self.min_cutoff, self.beta, self.speed_cutoff = min_cutoff, beta, speed_cutoff
        self.seconds = 0.0
        self._points: np.ndarray | None = None

    def __call__(self, points: np.ndarray, confidences: np.ndarray, seconds: float, scale: float = 1.0) -> np.ndarray:
        """The smoothed points (K, 2) of points and confidences (K,) in [0, 1] at that time; the first as they are."""
        dt, self.seconds = max(seconds - self.seconds, 1e-6), seconds
        if self._points is None:
            self._points, self._speeds = points.copy(), np.zeros_like(points)
            return points
        weights = confidences[:, None]
        self._speeds += weights * _gain(self.speed_cutoff, dt) * ((points - self._points) / dt - self._speeds)
        cutoff = self.min_cutoff + self.beta * np.linalg.norm(self._speeds, axis=1, keepdims=True) / scale
        self._points = self._points + weights * _gain(cutoff, dt) * (points - self._points)
        return self._points


def _gain(cutoff: float | np.ndarray, dt: float) -> float | np.ndarray:
    return 1 / (1 + 1 / (2 * math.pi * cutoff * dt))
