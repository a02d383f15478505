"""Videos, cameras and streams, frame by frame, in and out, through OpenCV."""

import contextlib
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


class VideoReader:
    """The frames of a video: iterate over it for (seconds from the first frame, (H, W, 3) uint8 RGB array).

    The times are the file's timestamps, so they are right at a variable frame rate. `frame_rate`, in frames per second,
    and `duration`, in seconds and 0 where it is unknown, are what the file claims.
    """

    def __init__(self, source: Source):
        self._is_camera = isinstance(source, int)
        self.name = f"camera {source}" if self._is_camera else str(source)
        if self.name != self.name.encode(errors="replace").decode():  # OpenCV 5 crashes on bytes that are no text
            raise UserError(f"the name of the video {self.name} is not valid UTF-8; rename it.")
        self._capture = cv2.VideoCapture(os.path.abspath(source) if isinstance(source, Path) else source)
        if not self._capture.isOpened():
            raise UserError(f"cannot open {self.name}; is the camera connected, the address right, the file whole?")
        rate, count = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_rate = rate if 0.1 <= rate <= 240 else 25.0  # others are unknown, or the timestamps' resolution
        is_file = not self._is_camera and "://" not in self.name
        self.duration = max(count, 0.0) / rate if is_file and rate > 0 else 0.0

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        first = last = None
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            time = monotonic() if self._is_camera else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            first = time if first is None else first
            seconds = time - first
            if last is not None and not 0 < seconds - last < 600:  # a fault in the file's timestamps
                seconds = last + 1 / self.frame_rate
                first = time - seconds
            last = seconds
            yield seconds, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        self._capture.release()


class VideoWriter:
    """Writes an MP4 file of constant frame rate, complete once it is closed; without frames, no file."""

    def __init__(self, path: str | os.PathLike[str], frame_rate: float):
        self.path = os.path.abspath(path)  # FFmpeg takes what is before a colon for a protocol
        self.frame_rate = round(frame_rate, 2)  # MPEG-4 has no fractions with terms above 65,535
        self.num_frames = 0
        self._writer: cv2.VideoWriter | None = None
        self._last: np.ndarray | None = None

    def write(self, frame: np.ndarray, seconds: float | None = None) -> None:
        """Add an (H, W, 3) uint8 RGB frame; all are scaled to the size of the first, whose odd sides lose a pixel.

        seconds: when the frame is shown; until then the one before it is repeated, and a frame whose place is taken
        replaces it in what follows. None: right after the one before.
        """
        if self._writer is None:
            self._size = frame.shape[1] // 2 * 2, frame.shape[0] // 2 * 2
            self._writer = cv2.VideoWriter(self.path, cv2.VideoWriter.fourcc(*"mp4v"), self.frame_rate, self._size)
            if not self._writer.isOpened():
                raise UserError(f"cannot write the video {self.path}; check the folder, or OpenCV's build for FFmpeg.")
        frame = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), self._size, interpolation=cv2.INTER_AREA)
        place = self.num_frames if seconds is None else round(seconds * self.frame_rate)
        last = frame if self._last is None else self._last
        shown = [last] * (place - self.num_frames) + [frame] * (self.num_frames <= place)
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
