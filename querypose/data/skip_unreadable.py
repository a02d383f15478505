"""Training and inference without the images that cannot be read, which are counted (`SKIP_UNREADABLE_IMAGES`)."""

import logging
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from querypose.errors import UserError
from querypose.image_io import UnreadableImageError

logger = logging.getLogger(__name__)

_MAX_IN_A_ROW = 100


class SkipUnreadable:
    """A mapper around a mapper, which skips unreadable images (`DATALOADER.SKIP_UNREADABLE_IMAGES`).

    In training another image, sampled at random, replaces one that cannot be read. In inference its input is
    marked `unreadable`, with a black `image` of 64 x 64 in it, so that an evaluator can count it as one without
    detections. Each such image is logged once per process and listed, with the reason, in `list_file`, which all
    processes write to.
    """

    def __init__(
        self,
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        list_file: str | os.PathLike[str],
        records: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """records: dataset dicts to sample others from, for training; None for inference."""
        self.mapper = mapper
        self.list_file = Path(list_file)
        self.records = records
        self._seen: set[str] = set()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        candidate, first = record, None
        for _ in range(_MAX_IN_A_ROW):
            try:
                return self.mapper(candidate)
            except UnreadableImageError as error:
                first = first or error
                self._note(candidate["file_name"], error)
            if self.records is None:
                output = {key: value for key, value in record.items() if key != "annotations"}
                return {**output, "image": torch.zeros(3, 64, 64, dtype=torch.uint8), "unreadable": True}
            candidate = self.records[random.randrange(len(self.records))]
        raise UserError(f"{_MAX_IN_A_ROW} images in a row cannot be read; check the image folder (first: {first})")

    def _note(self, file_name: str, error: UnreadableImageError) -> None:
        if file_name in self._seen:
            return
        self._seen.add(file_name)
        logger.warning("Skipped: %s (%d so far in this process)", error, len(self._seen))
        self.list_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.list_file, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{file_name}\t{error}\n")


def count_unreadable(list_file: str | os.PathLike[str]) -> int:
    """Return how many different images `list_file` names; 0 without such a file."""
    path = Path(list_file)
    if not path.is_file():
        return 0
    return len({line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()})
