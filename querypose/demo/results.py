"""The persons found, as files for other programs."""

import csv
import json
from pathlib import Path
from typing import Any

from querypose.atomic_io import whole_file, writing
from querypose.skeleton import Skeleton
from querypose.structures import Persons, record_columns, to_coco


class Results:
    """Files of the persons found: two that grow with every image, two that are written at the end.

    `frames.jsonl` has a line for each image or frame, `persons.csv` one for each person; `predictions.json` are COCO
    results and `images.json` the ids, names and sizes for them; of tracked persons `tracks.json` has both in the form
    of COCO with videos. However the run ends, the first two hold what was found
    until then.
    """

    def __init__(self, folder: Path, skeleton: Skeleton, *, tracked: bool = False, sigmas: bool = False):
        """tracked, sigmas: whether persons have these. All methods raise `UserError` if the files cannot be written."""
        self.folder, self.skeleton, self.tracked = folder, skeleton, tracked
        self.predictions: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        track = ["track_id"] if tracked else []
        columns = ["image_id", "file_name", "frame", "time", *track, *record_columns(skeleton, sigmas=sigmas)]
        with writing(folder):
            self._lines = open(folder / "frames.jsonl", "w", encoding="utf-8")
            # names of files may hold bytes that are no UTF-8
            self._table = open(folder / "persons.csv", "w", encoding="utf-8", errors="surrogateescape", newline="")
            self._rows = csv.DictWriter(self._table, columns)
            self._rows.writeheader()

    def add(
        self,
        persons: Persons,
        image_id: int,
        name: str,
        size: tuple[int, int],
        frame: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """size: height, width; frame counts from 0 and seconds from the beginning of a video."""
        place = {"image_id": image_id, "file_name": name, "frame": frame, "time": seconds}
        image: dict[str, Any] = {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}
        self.images.append(image if frame is None else {**image, "frame": frame, "time": seconds})
        self.predictions += [{**result, "file_name": name} for result in to_coco(persons, image_id)]
        records = persons.to_records()
        with writing(self.folder):
            self._rows.writerows({**place, **record} for record in records)
            self._lines.write(json.dumps({**place, "persons": records}) + "\n")

    def close(self) -> None:
        """Write the files of the end."""
        contents: dict[str, Any]
        with writing(self.folder):
            self._lines.close()
            self._table.close()
            contents = {"predictions.json": self.predictions, "images.json": {"images": self.images}}
            if self.tracked:
                contents["tracks.json"] = coco_video(self.images, self.predictions, self.skeleton)
            for name, content in contents.items():
                with whole_file(self.folder / name) as file:
                    file.write(json.dumps(content).encode())

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def coco_video(images: list[dict[str, Any]], results: list[dict[str, Any]], skeleton: Skeleton) -> dict[str, Any]:
    """COCO's content with `videos` and `tracks`: a folder of frames counts as a video; persons without id are left out.

    images, results: of one run, as `Results` holds them, in order.
    """
    numbers: dict[str, int] = {}
    counts: dict[int, int] = {}
    frames = []
    for image in images:
        video = image["file_name"] if "frame" in image else str(Path(image["file_name"]).parent)
        number = numbers.setdefault(video, len(numbers) + 1)
        frames.append({**image, "video_id": number, "frame_id": counts.get(number, 0)})
        counts[number] = counts.get(number, 0) + 1
    videos = {frame["id"]: frame["video_id"] for frame in frames}
    found = [result for result in results if result["track_id"] >= 0]
    annotations = [
        {"id": i, **result, "video_id": videos[result["image_id"]], "area": result["bbox"][2] * result["bbox"][3]}
        for i, result in enumerate(found, start=1)
    ]
    tracks = {each["track_id"]: {"id": each["track_id"], "video_id": each["video_id"]} for each in annotations}
    category = {"id": 1, "name": "person", "keypoints": list(skeleton.keypoint_names)}
    return {
        "videos": [{"id": number, "name": name} for name, number in numbers.items()],
        "images": frames,
        "annotations": annotations,
        "tracks": [{**track, "category_id": 1} for track in tracks.values()],
        "categories": [{**category, "skeleton": [[i + 1, j + 1] for i, j in skeleton.limbs]}],
    }
