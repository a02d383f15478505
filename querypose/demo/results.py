"""The persons found, as files for other programs."""

import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from querypose.atomic_io import whole_file
from querypose.errors import UserError
from querypose.skeleton import Skeleton
from querypose.structures import Persons, record_columns, to_coco


class Results:
    """Files of the persons found: two that grow with every image, two that are written at the end.

    `frames.jsonl` has a line for each image or frame, `persons.csv` one for each person; `predictions.json` are COCO
    results and `images.json` the ids, names and sizes for them. However the run ends, the first two hold what was found
    until then.
    """

    def __init__(self, folder: Path, skeleton: Skeleton):
        """All methods raise `UserError` if the files cannot be written."""
        self.folder = folder
        self.predictions: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        columns = ["image_id", "file_name", "frame", "time", *record_columns(skeleton)]
        with self._writing():
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
        with self._writing():
            self._rows.writerows({**place, **record} for record in records)
            self._lines.write(json.dumps({**place, "persons": records}) + "\n")

    def close(self) -> None:
        """Write the files of the end."""
        with self._writing():
            self._lines.close()
            self._table.close()
            for name, content in (("predictions.json", self.predictions), ("images.json", {"images": self.images})):
                with whole_file(self.folder / name) as file:
                    file.write(json.dumps(content).encode())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # a full disk, for example
            place = error.filename or self.folder
            raise UserError(f"cannot write {place}: {error.strerror}; choose another --output.") from error

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
