"""Training batches that are a function of the seed, the process and their number alone, so that runs resume anywhere.

With Detectron2's loader a batch depends on the number of workers and on every batch before it. Here the order of the
images needs no image, so that finished batches are skipped at once, and augmentation depends on the place in it.
"""

import itertools
import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from querypose.data.mapper import Mapper, Records
from querypose.errors import UserError

logger = logging.getLogger(__name__)


class TrainingLoader:
    """Endless batches, as lists of what `mapper` returns for `records`; the same for any number of workers.

    `seed` and `first_batch`, the number of the first one, may be set until it is requested. Batch b of all processes
    together holds the images, augmented alike, that batch b of one process would, but for
    `DATALOADER.ASPECT_RATIO_GROUPING`, with which a batch holds only images wider than high, or none.
    """

    @configurable
    def __init__(
        self,
        *,
        records: Records,
        mapper: Mapper,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        pin_memory: bool = False,
        aspect_ratio_grouping: bool = False,
    ) -> None:
        """batch_size: images of all processes together."""
        self.records, self.mapper, self.images_per_process = records, mapper, batch_size // comm.get_world_size()
        self.seed, self.first_batch = seed, 0
        self.num_workers, self.pin_memory = num_workers, pin_memory
        is_wide = (record.get("width", 0) > record.get("height", 0) for record in records)
        self._group = list(is_wide) if aspect_ratio_grouping else [False] * len(records)

    @classmethod
    def from_config(cls, cfg: CfgNode, mapper: Mapper, records: Records) -> dict[str, Any]:
        batch, processes, steps = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size(), cfg.SOLVER.ACCUMULATION_STEPS
        if batch % (processes * steps):
            needed = f"{processes * steps} ({processes} processes x {steps} SOLVER.ACCUMULATION_STEPS)"
            raise UserError(f"SOLVER.IMS_PER_BATCH is {batch}; it must be a multiple of {needed}")
        return {
            "records": records,
            "mapper": mapper,
            "batch_size": batch,
            "seed": int(cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()),
            "num_workers": cfg.DATALOADER.NUM_WORKERS,
            "pin_memory": cfg.MODEL.DEVICE.startswith("cuda"),
            "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        }

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        yield from DataLoader(
            _SeededImages(self.records, self.mapper, self.seed),
            batch_sampler=itertools.islice(self._batches(), self.first_batch, None),
            num_workers=self.num_workers,
            collate_fn=list,
            pin_memory=self.pin_memory,
            # its own: the model's generator must not depend on the loader
            generator=torch.Generator().manual_seed(0),
        )

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        """Lists of (place in the order of all processes together, index of the record)."""
        rank, processes = comm.get_rank(), comm.get_world_size()
        groups: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for number, index in enumerate(TrainingSampler(len(self.records), seed=self.seed)):
            group = groups[self._group[index]]
            group.append((number * processes + rank, index))
            if len(group) == self.images_per_process:
                yield group[:]
                group.clear()


class _SeededImages(Dataset[dict[str, Any]]):
    """(place, index) -> the mapper's output for a record, whose random numbers depend on seed and place alone."""

    def __init__(self, records: Records, mapper: Mapper, seed: int) -> None:
        self.records, self.mapper, self.seed = records, mapper, seed

    def __getitem__(self, place_and_index: tuple[int, int]) -> dict[str, Any]:
        place, index = place_and_index
        # without workers the generators are the model's, which must not depend on how many images were loaded
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        python, numpy, pytorch = hashed(self.seed, place)
        random.seed(python)
        np.random.seed(numpy)
        torch.default_generator.manual_seed(pytorch)
        try:
            return self.mapper(self.records[index])
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])


def training_records(cfg: CfgNode) -> DatasetFromList:
    """Return the images of DATASETS.TRAIN that have enough keypoints, serialized so that workers share their memory."""
    min_keypoints, num_queries = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE, cfg.MODEL.QUERYPOSE.NUM_QUERIES
    try:
        records = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, min_keypoints=min_keypoints
        )
    except AssertionError as error:  # there are none
        person = f"a person with {min_keypoints} labeled keypoints (MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE)"
        raise UserError(f"no image of DATASETS.TRAIN {cfg.DATASETS.TRAIN} has {person} to train on") from error
    counts = [sum(not person.get("iscrowd") for person in record.get("annotations", ())) for record in records]
    if max(counts) > num_queries:
        message = "%d training images have more persons than MODEL.QUERYPOSE.NUM_QUERIES, %d: set it to at least %d."
        logger.warning(message, sum(count > num_queries for count in counts), num_queries, max(counts))
    return DatasetFromList(records, copy=False)


def hashed(*numbers: int) -> list[int]:
    """Return three seeds of 32 bits, unrelated to those of any other numbers (>= 0)."""
    return [int(seed) for seed in np.random.SeedSequence(numbers).generate_state(3)]
