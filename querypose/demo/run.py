"""The demo itself: every image, video or camera in turn, with what went wrong kept for the end."""

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from querypose.demo.drawing import Drawing
from querypose.demo.inputs import image_ids, is_video, output_names
from querypose.demo.results import Results
from querypose.errors import UserError
from querypose.images import read_image_rgb
from querypose.skeleton import Skeleton
from querypose.structures import Persons
from querypose.visualization.draw_poses import default_scale
from querypose.visualization.video import VideoReader, VideoWriter, stop_on_interrupt

# Containers state how many frames they hold, some by an estimate; fewer than this part of it is a fault.
_MIN_FRAMES_READ = 0.9


class Demo:
    """Finds and draws the persons of images, videos and cameras, and writes pictures, videos and `Results`.

    After `run`: `failures`, a sentence for each input that could not be used, also to stderr as it happens;
    `interrupted`, whether Ctrl-C ended it; `has_frames`, whether there were videos or a camera; `num_persons` and
    `num_pictures`, of images and frames.
    """

    def __init__(
        self,
        find_persons: Callable[[np.ndarray], Persons],
        skeleton: Skeleton,
        output: Path,
        drawing: Drawing,
        max_frames: int | None = None,
    ):
        """
        Args:
            find_persons: from an (H, W, 3) uint8 RGB image to its `Persons`: a `PosePredictor`.
            skeleton: of these persons.
            output: the folder to write to, which is there.
            drawing: how persons are drawn.
            max_frames: most frames of a video or camera.
        """
        self.find_persons = find_persons
        self.skeleton = skeleton
        self.output = output
        self.drawing = drawing
        self.max_frames = max_frames
        self.failures: list[str] = []
        self.interrupted = self.has_frames = False
        self.num_persons = self.num_pictures = 0

    def run(self, sources: Sequence[Path] | int) -> None:
        """Work on image and video files, or on the camera with a number; whatever fails is told and left out.

        Image ids are the numbers that images are named by, see `image_ids`; with videos or a camera, images and frames
        count from 1.
        """
        if isinstance(sources, int):
            jobs: list[tuple[Path | int, str]] = [(sources, "webcam.mp4")]
            self.has_frames = True
        else:
            jobs = list(zip(sources, output_names(sources), strict=True))
            self.has_frames = any(map(is_video, sources))
        numbers = itertools.count(1) if self.has_frames else dict(zip(sources, image_ids(sources), strict=True))
        with stop_on_interrupt() as stop, Results(self.output, self.skeleton) as results:
            for source, name in tqdm(jobs, unit="input", disable=True if len(jobs) == 1 else None):
                if stop.is_set():
                    break
                try:
                    if isinstance(source, int) or is_video(source):
                        self._video(source, self.output / name, results, numbers, stop)
                    else:
                        self._image(source, self.output / name, results, numbers)
                except UserError as error:
                    self.fail(str(error))
        self.interrupted = stop.is_set()
        self.num_persons, self.num_pictures = len(results.predictions), len(results.images)

    def fail(self, message: str) -> None:
        """Tell of an input that cannot be used, and remember it."""
        self.failures.append(message)
        tqdm.write(f"error: {message}", file=sys.stderr)

    def _image(self, file: Path, picture_file: Path, results: Results, numbers) -> None:
        image = read_image_rgb(file)
        persons = self.find_persons(image)
        try:
            Image.fromarray(self.drawing(image, persons)).save(picture_file, quality=95, subsampling=0)
        except OSError as error:
            raise UserError(f"cannot write {picture_file}: {error.strerror or error}.") from error
        number = next(numbers) if self.has_frames else numbers[file]
        results.add(persons, number, str(file), image.shape[:2])

    def _video(self, source: Path | int, video_file: Path, results: Results, numbers, stop: threading.Event) -> None:
        """Until the end of a file or camera, or until `stop` is set.

        A camera's frames are repeated in the output for as long as each was worked on, so that it plays in real time.
        """
        with contextlib.closing(VideoReader(source)) as reader:
            count, start = 0, time.monotonic()
            total = min(reader.num_frames or sys.maxsize, self.max_frames or sys.maxsize)
            progress = tqdm(
                total=None if total == sys.maxsize else total, desc=Path(reader.name).name, unit="frame", disable=None
            )
            with VideoWriter(video_file, reader.frame_rate) as writer, progress:
                for frame in reader:
                    persons = self.find_persons(frame)
                    seconds = time.monotonic() - start if reader.is_camera else count / reader.frame_rate
                    picture = self.drawing(frame, persons, scale=default_scale(*frame.shape[:2]))
                    wanted = round(seconds * reader.frame_rate) if reader.is_camera else 0
                    for _ in range(max(1, wanted - writer.num_frames)):
                        writer.write(picture)
                    results.add(persons, next(numbers), reader.name, frame.shape[:2], count, round(seconds, 4))
                    count += 1
                    progress.update()
                    if stop.is_set() or count == self.max_frames:
                        return
        if count == 0:
            raise UserError(f"{reader.name} has no frame that can be read; leave it out or mend it.")
        if count < _MIN_FRAMES_READ * reader.num_frames:
            raise UserError(
                f"{reader.name} ends after {count} of {reader.num_frames} frames: it is damaged; what came before "
                "was kept."
            )
