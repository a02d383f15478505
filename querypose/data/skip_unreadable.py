"""Going on without the images that cannot be read, and keeping count of them."""

import logging
import random
from pathlib import Path

import torch

from querypose.data.images import UnreadableImageError
from querypose.errors import UserError

logger = logging.getLogger(__name__)

_MAX_IN_A_ROW = 100


class SkipUnreadable:
    """A mapper around a mapper, which passes over unreadable images (`DATALOADER.SKIP_UNREADABLE_IMAGES`).

    In training another image, drawn at random, takes the place of one that cannot be read. In inference its input is
    marked `unreadable`, with a black `image` of 64 x 64 in it, so that an evaluator can count it as one without
    detections. Each such image is logged once per process and listed, with the reason, in `list_file`, which all
    processes write to.
    """

    def __init__(self, mapper, list_file, records=None):
        """
        Args:
            mapper: called with a Detectron2 dataset dict; raises `UnreadableImageError`.
            list_file: path; its folder is made when it is needed.
            records: sequence of dataset dicts to draw others from, for training; None for inference.
        """
        self.mapper = mapper
        self.list_file = Path(list_file)
        self.records = records
        self._seen = set()

    def __call__(self, record):
        try:
            return self.mapper(record)
        except UnreadableImageError as error:
            self._note(record, error)
            first = error
        if self.records is None:
            output = {key: value for key, value in record.items() if key != "annotations"}
            return {**output, "image": torch.zeros(3, 64, 64, dtype=torch.uint8), "unreadable": True}
        for _ in range(_MAX_IN_A_ROW):
            other = self.records[random.randrange(len(self.records))]
            try:
                return self.mapper(other)
            except UnreadableImageError as error:
                self._note(other, error)
        raise UserError(f"{_MAX_IN_A_ROW} images in a row cannot be read; check the image folder (first: {first})")

    def _note(self, record, error):
        if record["file_name"] in self._seen:
            return
        self._seen.add(record["file_name"])
        logger.warning("Skipped: %s (%d so far in this process)", error, len(self._seen))
        self.list_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.list_file, "a", encoding="utf-8") as file:
            file.write(f"{record['file_name']}\t{error}\n")


def count_unreadable(list_file):
    """Return how many different images `list_file` names; 0 without such a file."""
    path = Path(list_file)
    if not path.is_file():
        return 0
    return len({line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()})
