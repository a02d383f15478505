"""The persons found, as files for other programs."""

import csv
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

from querypose.atomic_io import whole_file, writing
from querypose.skeleton import Skeleton
from querypose.structures import Persons, record_columns


class Results:
    """Files of the persons found, written image by image, so that memory does not grow with their number.

    `frames.jsonl` has a line for each image or frame, `persons.csv` one for each person; however the run ends, they
    hold what was found until then. With `close` appear `predictions.json`, COCO results, `images.json`, the ids, names
    and sizes for them, and of tracked persons `tracks.json`, both in the form of COCO with videos: a folder of frames
    counts as a video, and persons without id are left out.
    """

    def __init__(self, folder: Path, skeleton: Skeleton, *, tracked: bool = False, sigmas: bool = False):
        """tracked, sigmas: whether persons have these."""
        self.folder, self.skeleton, self.tracked = folder, skeleton, tracked
        self.num_persons = self.num_images = self._num_tracked = 0
        columns = ["image_id", "file_name", "frame", "time", *(["track_id"] if tracked else [])]
        with writing(folder):
            # JSON values, each behind a comma
            self._persons, self._images, self._tracked_persons, self._tracked_images = (
                tempfile.TemporaryFile(dir=folder) for _ in range(4)
            )
            self._lines = open(folder / "frames.jsonl", "w", 1, encoding="utf-8")
            # each line at once; names of files may hold bytes that are no UTF-8
            self._table = open(folder / "persons.csv", "w", 1, encoding="utf-8", errors="surrogateescape", newline="")
            self._rows = csv.DictWriter(self._table, [*columns, *record_columns(skeleton, sigmas=sigmas)])
            self._rows.writeheader()
        self._frames_of: Counter[str] = Counter()  # by video
        self._video_of: dict[int, int] = {}  # by track

    def add(self, persons: Persons, image_id: int, name: str, frame: int | None, seconds: float | None) -> None:
        """name: of the image's or video's file; frame counts from 0 and seconds from the beginning of a video."""
        place = {"image_id": image_id, "file_name": name, "frame": frame, "time": seconds}
        height, width = persons.image_size
        image: dict[str, Any] = {"id": image_id, "file_name": name, "height": height, "width": width}
        if frame is not None:
            image |= {"frame": frame, "time": seconds}
        results = [{**result, "file_name": name} for result in persons.to_coco(image_id)]
        records = persons.to_records()
        with writing(self.folder):
            self._rows.writerows({**place, **record} for record in records)
            self._lines.write(json.dumps({**place, "persons": records}) + "\n")
            _append(self._images, image)
            _append(self._persons, *results)
            if self.tracked:
                self._add_to_tracks(image, results)
        self.num_images += 1
        self.num_persons += len(results)

    def _add_to_tracks(self, image: dict[str, Any], results: list[dict[str, Any]]) -> None:
        name = image["file_name"] if "frame" in image else str(Path(image["file_name"]).parent)
        self._frames_of[name] += 1
        video = len(self._frames_of)  # whose images follow one another
        _append(self._tracked_images, {**image, "video_id": video, "frame_id": self._frames_of[name] - 1})
        for result in results:
            if result["track_id"] >= 0:
                self._num_tracked += 1
                area = result["bbox"][2] * result["bbox"][3]
                _append(self._tracked_persons, {"id": self._num_tracked, **result, "video_id": video, "area": area})
                self._video_of[result["track_id"]] = video

    def close(self) -> None:
        """Complete all files."""
        with writing(self.folder), self._lines, self._table:
            self._write("predictions.json", b"[", self._persons, b"]")
            self._write("images.json", b'{"images": [', self._images, b"]}")
            if self.tracked:
                names, limbs = list(self.skeleton.keypoint_names), [[i + 1, j + 1] for i, j in self.skeleton.limbs]
                rest = {
                    "videos": [{"id": number, "name": name} for number, name in enumerate(self._frames_of, start=1)],
                    "tracks": [{"id": i, "video_id": video, "category_id": 1} for i, video in self._video_of.items()],
                    "categories": [{"id": 1, "name": "person", "keypoints": names, "skeleton": limbs}],
                }
                arrays = b'{"annotations": [', self._tracked_persons, b'], "images": [', self._tracked_images
                self._write("tracks.json", *arrays, b"], " + json.dumps(rest)[1:].encode())

    def _write(self, name: str, *parts: bytes | IO[bytes]) -> None:
        with whole_file(self.folder / name) as file:
            for part in parts:
                if isinstance(part, bytes):
                    file.write(part)
                else:
                    part.seek(2)  # behind the first comma
                    shutil.copyfileobj(part, file)


def _append(file: IO[bytes], *values: Any) -> None:
    file.writelines(b",\n" + json.dumps(value).encode() for value in values)
