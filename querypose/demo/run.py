"""The demo: persons of images, videos and cameras, drawn and written while the network processes the next frame."""

import contextlib
import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from querypose.demo.inputs import image_ids, is_video, output_names
from querypose.demo.results import Results
from querypose.demo.video import Source, VideoReader, VideoWriter, stop_on_interrupt
from querypose.errors import UserError, report_error
from querypose.image_io import read_image_rgb
from querypose.modeling import KEYPOINT_LOSS_REGISTRY
from querypose.predictor import PosePredictor, check_attention
from querypose.structures import Persons
from querypose.tracking import PoseTracker
from querypose.visualization.draw_poses import draw_poses, overlay_attention


@dataclass
class _Frame:
    """An image, or a frame of a video with its number and its time in seconds."""

    name: str
    output: Path
    image: np.ndarray
    index: int | None = None
    seconds: float | None = None
    frame_rate: float = 0.0


class Demo:
    """Finds and draws the persons of images, videos and cameras, and writes visualizations, videos and `Results`.

    After `run`: `failures`, the error of each input that could not be used, and output that could not be written;
    `interrupted`, whether Ctrl-C ended it; `num_persons` and `num_images`, images and frames.
    """

    def __init__(
        self,
        predictor: PosePredictor,
        output: Path,
        *,
        attention: bool = False,
        max_frames: int | None = None,
        tracker: PoseTracker | None = None,
        **drawing: Any,
    ):
        """output: an existing folder. attention: overlay that of the parts. max_frames: most of a video or camera.
        tracker: gives persons ids; the images of a folder are frames of a video. drawing: options of `draw_poses`.
        """
        if attention:
            check_attention(predictor.cfg)
        loss = predictor.cfg.MODEL.QUERYPOSE.KEYPOINT_LOSS
        self._has_sigmas = KEYPOINT_LOSS_REGISTRY.get(loss).uses_sigma
        if drawing.get("sigmas") and not self._has_sigmas:
            raise UserError(f"a model with KEYPOINT_LOSS '{loss}' predicts no sigma; leave out --sigmas, or use RLE.")
        self.predictor, self.output, self.attention = predictor, output, attention
        self.max_frames, self.tracker = max_frames, tracker
        self.drawing = {"score_threshold": predictor.score_threshold, **drawing}
        self.failures: dict[Source, UserError] = {}
        self.interrupted = False
        self.num_persons = self.num_images = 0
        self._writer: VideoWriter | None = None

    def run(self, sources: Sequence[Source]) -> None:
        """Work on image and video files, streams and cameras; an input that fails is reported and skipped.

        Image ids are those of `image_ids`; with videos or a camera, images and frames count from 1.
        """
        files = [source for source in sources if isinstance(source, Path)]
        batch_size = 4 if len(files) == len(sources) else 1  # a camera must not wait for more frames
        ids = {} if any(map(is_video, sources)) else dict(zip(map(str, files), image_ids(files), strict=True))
        tracked, skeleton = self.tracker is not None, self.predictor.skeleton
        results: Results | None = None  # made with the first image: earlier results outlive a run without any
        with stop_on_interrupt() as stop, contextlib.ExitStack() as after, ThreadPoolExecutor(1) as drawing:
            after.callback(self._close_writer)
            pending: Future[None] | None = None
            video = ""
            for frame, persons in self._predictions(self._frames(sources, stop), batch_size):
                if results is None:
                    results = Results(self.output, skeleton, tracked=tracked, sigmas=self._has_sigmas)
                    after.callback(results.close)
                number = ids.get(frame.name, results.num_images + 1)
                seconds = None if frame.seconds is None else round(frame.seconds, 4)
                if self.tracker is not None:
                    before, video = video, os.path.dirname(frame.name) if frame.index is None else frame.name
                    if video != before:
                        self.tracker.reset()
                    persons = self.tracker.update(persons, seconds, frame.image)
                    persons = persons[(persons.track_ids >= 0) | (persons.scores >= self.tracker.min_score)]
                results.add(persons, number, frame.name, frame.index, seconds)
                if pending is not None:
                    pending.result()
                pending = drawing.submit(self._draw, frame, persons)
                if stop.is_set():
                    break
        self.interrupted = stop.is_set()
        if results is not None:
            self.num_persons, self.num_images = results.num_persons, results.num_images

    def fail(self, file: Source, error: Exception) -> None:
        """Report an input or output that cannot be used, once."""
        if file in self.failures:
            return
        if not isinstance(error, UserError):
            error = UserError(f"{file}: {type(error).__name__}: {error}")
        self.failures[file] = error
        with tqdm.external_write_mode(file=sys.stderr):
            report_error(error)

    def _frames(self, sources: Sequence[Source], stop: threading.Event) -> Iterator[_Frame]:
        jobs = list(zip(sources, output_names(sources), strict=True))
        for source, name in tqdm(jobs, unit="input", disable=True if len(jobs) == 1 else None):
            if stop.is_set():
                return
            try:
                if is_video(source):
                    yield from self._video_frames(source, self.output / name)
                else:
                    yield _Frame(str(source), self.output / name, read_image_rgb(source))
            except Exception as error:  # one bad input does not end the run
                self.fail(source, error)

    def _video_frames(self, source: Source, output: Path) -> Iterator[_Frame]:
        with contextlib.closing(VideoReader(source)) as reader:
            count, seconds = 0, 0.0
            total = min(filter(None, [round(reader.duration * reader.frame_rate), self.max_frames]), default=None)
            frames = itertools.islice(reader, self.max_frames)
            for seconds, image in tqdm(frames, Path(reader.name).name, total, unit="frame", disable=None):
                yield _Frame(reader.name, output, image, count, seconds, reader.frame_rate)
                count += 1
        if count == 0:
            raise UserError(f"{reader.name} has no frame that can be read; repair it or leave it out.")
        # some containers only estimate the duration
        if count != self.max_frames and seconds + 1 / reader.frame_rate < 0.9 * reader.duration:
            times = f"{seconds:.1f} of {reader.duration:.1f} seconds"
            raise UserError(f"{reader.name} ends after {times}: it is damaged; the frames before are kept.")

    def _predictions(self, frames: Iterator[_Frame], batch_size: int) -> Iterator[tuple[_Frame, Persons]]:
        waiting: deque[_Frame] = deque()  # the predictor reads ahead

        def images() -> Iterator[np.ndarray]:
            for frame in frames:
                waiting.append(frame)
                yield frame.image

        stream = self.predictor.stream(images(), batch_size)
        for persons in map(self.predictor.with_attention, images()) if self.attention else stream:
            yield waiting.popleft(), persons

    def _draw(self, frame: _Frame, persons: Persons) -> None:
        if frame.output in self.failures:
            return
        try:
            image = frame.image
            if self.attention:
                image = overlay_attention(image, persons.part_attention, persons.attention_boxes.tensor)
            image = draw_poses(image, persons, persons.skeleton, **self.drawing)
            if frame.index is None:
                Image.fromarray(image).save(frame.output, quality=95, subsampling=0)
                return
            if self._writer is None or self._writer.path != str(frame.output):
                self._close_writer()
                self._writer = VideoWriter(frame.output, frame.frame_rate)
            self._writer.write(image, frame.seconds)
        except Exception as error:  # the keypoints are already written
            message = f"cannot write {frame.output} ({error}); the keypoints of {frame.name} are kept."
            self.fail(frame.output, UserError(message))

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
