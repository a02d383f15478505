"""The persons found, as files for other programs."""

import contextlib
import csv
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

from querypose.atomic_io import whole_file, writing
from querypose.skeleton import Skeleton
from querypose.structures import Persons, record_columns, to_coco


class Results:
    """Files of the persons found, written image by image, so that memory does not grow with their number.

    `frames.jsonl` has a line for each image or frame, `persons.csv` one for each person; however the run ends, they
    hold what was found until then. `predictions.json` are COCO results and `images.json` the ids, names and sizes for
    them; of tracked persons `tracks.json` has both in the form of COCO with videos. These three appear with `close`.
    """

    def __init__(self, folder: Path, skeleton: Skeleton, *, tracked: bool = False, sigmas: bool = False):
        """tracked, sigmas: whether persons have these. All methods raise `UserError` if the files cannot be written."""
        self.folder = folder
        self._files = contextlib.ExitStack()
        columns = ["image_id", "file_name", "frame", "time", *(["track_id"] if tracked else [])]
        with writing(folder):
            self._lines = self._files.enter_context(open(folder / "frames.jsonl", "w", encoding="utf-8"))
            # names of files may hold bytes that are no UTF-8
            table = open(folder / "persons.csv", "w", encoding="utf-8", errors="surrogateescape", newline="")
            self._rows = csv.DictWriter(
                self._files.enter_context(table), [*columns, *record_columns(skeleton, sigmas=sigmas)]
            )
            self._rows.writeheader()
            self.predictions = JsonArray(self._atomic("predictions.json"), "[")
            self._files.callback(self.predictions.file.write, b"]")
            self.images = JsonArray(self._atomic("images.json"), '{"images": [')
            self._files.callback(self.images.file.write, b"]}")
            self._tracks = CocoVideo(self._atomic("tracks.json"), skeleton) if tracked else None
            if self._tracks is not None:
                self._files.callback(self._tracks.finish)

    def _atomic(self, name: str) -> IO[bytes]:
        return self._files.enter_context(whole_file(self.folder / name))

    def add(
        self, persons: Persons, image_id: int, name: str, frame: int | None = None, seconds: float | None = None
    ) -> None:
        """name: of the image's or video's file; frame counts from 0 and seconds from the beginning of a video."""
        place = {"image_id": image_id, "file_name": name, "frame": frame, "time": seconds}
        height, width = persons.image_size
        image: dict[str, Any] = {"id": image_id, "file_name": name, "height": height, "width": width}
        if frame is not None:
            image |= {"frame": frame, "time": seconds}
        results = [{**result, "file_name": name} for result in to_coco(persons, image_id)]
        records = persons.to_records()
        with writing(self.folder):
            self._rows.writerows({**place, **record} for record in records)
            self._lines.write(json.dumps({**place, "persons": records}) + "\n")
            self.images.append(image)
            for result in results:
                self.predictions.append(result)
            if self._tracks is not None:
                self._tracks.add(image, results)

    def close(self) -> None:
        """Complete all files."""
        with writing(self.folder):
            self._files.close()

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class JsonArray:
    """An array in a JSON file that is written item by item, a line each; `length` counts them."""

    def __init__(self, file: IO[bytes], opening: str = ""):
        """opening: what stands in the file before the items."""
        self.file, self.length = file, 0
        file.write(opening.encode())

    def append(self, item: Any) -> None:
        self.file.write((",\n" if self.length else "").encode() + json.dumps(item).encode())
        self.length += 1


class CocoVideo:
    """COCO's content with `videos` and `tracks`: a folder of frames counts as a video; persons without id are left out.

    The images of a video follow one another.
    """

    def __init__(self, file: IO[bytes], skeleton: Skeleton):
        self._skeleton = skeleton
        self._annotations = JsonArray(file, '{"annotations": [')
        self._images = JsonArray(tempfile.TemporaryFile())  # they follow the annotations in the file
        self._frames: Counter[str] = Counter()  # by video
        self._tracks: dict[int, int] = {}  # the video of each

    def add(self, image: dict[str, Any], results: list[dict[str, Any]]) -> None:
        """An image and its persons, as `Results` has them."""
        video = image["file_name"] if "frame" in image else str(Path(image["file_name"]).parent)
        self._frames[video] += 1
        number = len(self._frames)
        self._images.append({**image, "video_id": number, "frame_id": self._frames[video] - 1})
        for result in results:
            if result["track_id"] >= 0:
                area = result["bbox"][2] * result["bbox"][3]
                annotation = {"id": self._annotations.length + 1, **result, "video_id": number, "area": area}
                self._annotations.append(annotation)
                self._tracks[result["track_id"]] = number

    def finish(self) -> None:
        """Write the rest of the file."""
        file = self._annotations.file
        file.write(b'], "images": [')
        with self._images.file as images:
            images.seek(0)
            shutil.copyfileobj(images, file)
        skeleton = self._skeleton
        category = {"id": 1, "name": "person", "keypoints": list(skeleton.keypoint_names)}
        rest = {
            "videos": [{"id": number, "name": name} for number, name in enumerate(self._frames, start=1)],
            "tracks": [{"id": i, "video_id": video, "category_id": 1} for i, video in self._tracks.items()],
            "categories": [{**category, "skeleton": [[i + 1, j + 1] for i, j in skeleton.limbs]}],
        }
        file.write(b"], " + json.dumps(rest)[1:].encode())
