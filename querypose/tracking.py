"""Identities of persons in a video, by the package `trackers`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from querypose.errors import UserError
from querypose.one_euro import OneEuroFilter
from querypose.structures import Persons

MIN_SCORE = 0.3
"""Persons below it get no id where no other score is given: with less sure ones more ids are exchanged."""


class PoseTracker:
    """Gives the persons of successive frames identities, and smooths their keypoints.

    Persons are matched by the IoU of their boxes. One who is hidden or gone for longer than `max_gap` seconds gets a
    new id.
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
            tracker: one of the package `trackers`, such as `ByteTrackTracker()`; None: OC-SORT.
            frame_rate: frames per second where `update` gets no time.
            min_score: persons below it get no id; as `max_gap`, of OC-SORT only.
            smooth: filter every keypoint, see `OneEuroFilter`.

        Raises:
            UserError: `trackers` is not installed.
        """
        if tracker is None:
            try:
                from trackers import OCSORTTracker
            except ImportError as error:
                raise UserError("trackers is not installed: pip install 'trackers>=2.6'") from error
            tracker = OCSORTTracker(
                lost_track_buffer=round(30 * max_gap),  # in frames of 1/30 second, whatever the frame rate
                frame_rate=frame_rate,
                high_conf_det_threshold=min_score,
                minimum_consecutive_frames=2,
            )
        self.tracker, self.frame_rate, self.max_gap, self.smooth = tracker, frame_rate, max_gap, smooth
        self._seconds, self._first_id, self._last_id = 0.0, 1, 0
        self._filters: dict[int, tuple[OneEuroFilter, float]] = {}  # by id, with the time of its last use

    def reset(self) -> None:
        """Forget all persons, as between two videos; ids are not used again."""
        self.tracker.reset()
        self._filters.clear()
        self._seconds, self._first_id = 0.0, self._last_id + 1

    def update(self, persons: Persons, seconds: float | None = None) -> Persons:
        """The persons of the next frame, in their order, with the field `track_ids`.

        seconds: the frame's time, later than the last one's; None: a frame of `frame_rate` later.
        Returns persons whose `track_ids` (n,) count from 1; -1: too low a score, or seen for the first time.
        """
        detections = persons.to_detections()
        detections.data["index"] = np.arange(len(persons))
        tracked = self.tracker.update(detections, timestamp=seconds)
        ids = torch.full((len(persons),), -1)
        if len(tracked):
            found = torch.from_numpy(np.asarray(tracked.tracker_id))
            ids[torch.from_numpy(tracked.data["index"])] = torch.where(found < 0, -1, found + self._first_id)
        self._last_id = max(self._last_id, *ids.tolist(), 0)
        self._seconds = self._seconds + 1 / self.frame_rate if seconds is None else seconds
        result = Persons.from_instances(persons, persons.skeleton)
        result.track_ids = ids
        if self.smooth:
            result.pred_keypoints = self._smoothed(result)
        return result

    def _smoothed(self, persons: Persons) -> torch.Tensor:
        keypoints = persons.pred_keypoints.clone()
        sizes = persons.pred_boxes.area().clamp(min=1).sqrt().tolist()
        for index, (track_id, size) in enumerate(zip(persons.track_ids.tolist(), sizes, strict=True)):
            if track_id < 0:
                continue
            one_euro, last = self._filters.get(track_id, (OneEuroFilter(), self._seconds - 1 / self.frame_rate))
            points = keypoints[index].double().numpy()
            smoothed = one_euro(points[:, :2], points[:, 2], max(self._seconds - last, 1e-6), size)
            keypoints[index, :, :2] = torch.from_numpy(smoothed)
            self._filters[track_id] = one_euro, self._seconds
        oldest = self._seconds - self.max_gap
        self._filters = {key: value for key, value in self._filters.items() if value[1] >= oldest}
        return keypoints
