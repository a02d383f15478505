"""Videos, cameras and streams, frame by frame, in and out, through OpenCV."""

import contextlib
import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import numpy as np

from querypose.errors import UserError

Source = Path | str | int
"""A file; the address of a stream, such as "rtsp://.."; the number of a camera."""

_DEFAULT_FRAME_RATE = 25.0  # where a file or camera names none
_MAX_TERM = 65_535  # MPEG-4's limit for both terms of a frame rate
_LONGEST_PAUSE = 600.0  # seconds between two frames; a larger step is a fault in the file's timestamps
_PROBED_FRAMES = 30
_MAX_VARIABLE_RATE = 120.0


class VideoReader:
    """The frames of a video: iterate over it for (seconds from the first frame, (H, W, 3) uint8 RGB array).

    The times are the file's timestamps, so they are right at a variable frame rate. `frame_rate` is in frames per
    second, of a variable rate the highest; `duration` is what the file claims in seconds, 0 where it is unknown.
    """

    def __init__(self, source: Source):
        self._is_camera = isinstance(source, int)
        self.name = f"camera {source}" if self._is_camera else str(source)
        if self.name != self.name.encode(errors="replace").decode():  # OpenCV 5 crashes on bytes that are no text
            raise UserError(f"the name of the video {self.name} is not valid UTF-8; rename it.")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else self.name)
        if not self._capture.isOpened():
            raise UserError(f"cannot open {self.name}; is the camera connected, the address right, the file whole?")
        rate, count = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_rate = rate if 0 < rate <= 1000 else _DEFAULT_FRAME_RATE
        self.duration = 0.0
        if not self._is_camera and "://" not in self.name:
            self.duration = max(count, 0.0) / self.frame_rate
            self.frame_rate = self._highest_rate()

    def _highest_rate(self) -> float:
        """The stated rate, unless the first frames' timestamps differ from it, since of a variable rate containers
        state the average or the resolution of the timestamps: then that of the two closest frames."""
        probe = cv2.VideoCapture(self.name)
        times = [probe.get(cv2.CAP_PROP_POS_MSEC) / 1000 for _ in range(_PROBED_FRAMES) if probe.grab()]
        probe.release()
        steps = [step for step in np.diff(times).tolist() if step > 0]
        # timestamps may be rounded to milliseconds
        if all(abs(step - 1 / self.frame_rate) < 0.0011 for step in steps):
            return self.frame_rate
        stated = self.frame_rate if self.frame_rate <= _MAX_VARIABLE_RATE else 0.0
        return min(max(stated, round(1 / min(steps)), 1.0), _MAX_VARIABLE_RATE)

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        first = last = None
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            time = monotonic() if self._is_camera else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            first = time if first is None else first
            seconds = time - first
            if last is not None and not 0 < seconds - last < _LONGEST_PAUSE:
                seconds = last + 1 / self.frame_rate
                first = time - seconds
            last = seconds
            yield seconds, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        self._capture.release()


class VideoWriter:
    """Writes an MP4 file of constant frame rate, complete once it is closed; without frames, no file."""

    def __init__(self, path: str | os.PathLike[str], frame_rate: float):
        self.path = os.fspath(path)
        # MPEG-4's fractions as OpenCV writes them: over a power of ten
        self.frame_rate = round(frame_rate, max(0, min(3, int(math.log10(_MAX_TERM / frame_rate)))))
        self.num_frames = 0
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray, seconds: float | None = None) -> None:
        """Add an (H, W, 3) uint8 RGB frame; all are scaled to the size of the first, odd sides cropped by a pixel.

        seconds: when the frame is shown; until then the one before it is repeated, and a frame whose place is taken
        replaces it in what follows. None: right after the one before.
        """
        height, width = (side - side % 2 for side in frame.shape[:2])
        frame = cv2.cvtColor(np.ascontiguousarray(frame[:height, :width]), cv2.COLOR_RGB2BGR)
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(self.path, codec, self.frame_rate, (width, height))
            if not self._writer.isOpened():
                raise UserError(f"cannot write the video {self.path}; check the folder, or OpenCV's build for FFmpeg.")
            self._size, self._last = (width, height), frame
        if (width, height) != self._size:  # OpenCV would leave it out
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        place = self.num_frames if seconds is None else round(seconds * self.frame_rate)
        shown = [self._last] * (place - self.num_frames) + [frame] * (self.num_frames <= place)
        for image in shown:
            self._writer.write(image)
        self.num_frames += len(shown)
        self._last = frame

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that a loop can end after its frame; a second Ctrl-C interrupts."""
    requested = threading.Event()

    def handle(*_: Any) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield requested
    finally:
        signal.signal(signal.SIGINT, before)
