"""Videos and cameras, frame by frame, in and out, through OpenCV."""

import contextlib
import math
import os
import signal
import threading
from collections.abc import Iterator
from types import TracebackType

import cv2
import numpy as np

from querypose.errors import UserError

DEFAULT_FRAME_RATE = 25.0
"""Frames per second where a file or camera names none."""


class VideoReader:
    """The frames of a video file or a camera: iterate over it for (H, W, 3) uint8 RGB arrays.

    `frame_rate` is in frames per second; `num_frames` is what the file claims, 0 where it is unknown.
    """

    def __init__(self, source: str | os.PathLike | int):
        """source: a file, or the number of a camera. Raises `UserError` for one that cannot be opened."""
        self.is_camera = isinstance(source, int)
        self.name = f"camera {source}" if isinstance(source, int) else os.fspath(source)
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else self.name)
        if not self._capture.isOpened():
            if self.is_camera:
                raise UserError(f"cannot open {self.name}; is it plugged in, and does no other program use it?")
            raise UserError(f"cannot open the video {self.name}; leave it out or mend it.")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else DEFAULT_FRAME_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_frames = 0 if self.is_camera or not math.isfinite(count) else max(0, int(count))

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        self._capture.release()


class VideoWriter:
    """Writes an MP4 file, whole as soon as it is closed; of no frames, no file."""

    def __init__(self, path: str | os.PathLike, frame_rate: float):
        self.path = os.fspath(path)
        self.frame_rate = frame_rate
        self.num_frames = 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: np.ndarray) -> None:
        """Add an (H, W, 3) uint8 RGB frame; all become as large as the first, whose odd sides lose a pixel.

        Raises `UserError` if the file cannot be written.
        """
        if self._writer is None:
            height, width = frame.shape[:2]
            self._size = (max(2, width - width % 2), max(2, height - height % 2))
            self._writer = cv2.VideoWriter(self.path, cv2.VideoWriter.fourcc(*"mp4v"), self.frame_rate, self._size)
            if not self._writer.isOpened():
                raise UserError(f"cannot write the video {self.path}; check the folder, or OpenCV's build for FFmpeg.")
        width, height = self._size
        if frame.shape[0] - height in (0, 1) and frame.shape[1] - width in (0, 1):
            frame = frame[:height, :width]
        else:
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR))
        self.num_frames += 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that a loop can end after its frame; a second Ctrl-C interrupts."""
    requested = threading.Event()

    def handle(signal_number, frame):
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield requested
    finally:
        signal.signal(signal.SIGINT, before)
