"""Batches for training, each a function of the seed, the process and its number alone: a run can go on at any of them.

Detectron2's loader gives every worker a share of the images and draws augmentations from the worker's own generator,
so that what a batch holds depends on the number of workers and on every batch before it. Here the order of the images
and their grouping into batches need no image, so that batches that are done are passed over in no time, and what is
drawn for an image depends on its place in that order.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from querypose.errors import UserError


class TrainingLoader:
    """Endless batches, as lists of what `mapper` returns; the same for any number of workers.

    `seed` and `first_batch`, the number of the batch that iteration starts with, may be set until the first batch is
    asked for. Without grouping, batch number b of P processes together holds the images, and their augmentations, that
    batch b of one process would.
    """

    @configurable
    def __init__(
        self,
        *,
        records: Sequence[dict],
        mapper: Callable[[dict], dict],
        images_per_process: int,
        seed: int,
        group_by_shape: bool = True,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        """
        Args:
            records: Detectron2 dataset dicts.
            mapper: makes a model's input of one of them; may draw from Python's, NumPy's and PyTorch's generators.
            images_per_process: images of a batch in this process.
            seed: of order and augmentations; the same in every process.
            group_by_shape: whether a batch holds only images wider than high, or none of them.
            num_workers: processes that load, each a whole batch at a time.
            pin_memory: whether images lie in page-locked memory, from which copies to a GPU do not wait.
        """
        self.records = records
        self.mapper = mapper
        self.images_per_process = images_per_process
        self.seed = seed
        self.first_batch = 0
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._is_wide = None
        if group_by_shape:
            self._is_wide = [record.get("width", 0) > record.get("height", 0) for record in records]

    @classmethod
    def from_config(cls, cfg, mapper: Callable[[dict], dict], records: Sequence[dict] | None = None):
        if records is None:
            records = training_records(cfg)
        loader, processes, steps = cfg.DATALOADER, comm.get_world_size(), cfg.SOLVER.ACCUMULATION_STEPS
        if cfg.SOLVER.IMS_PER_BATCH % (processes * steps):
            raise UserError(
                f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}; it must be a multiple of {processes * steps} "
                f"({processes} processes x {steps} SOLVER.ACCUMULATION_STEPS)"
            )
        return {
            "records": records,
            "mapper": mapper,
            "images_per_process": cfg.SOLVER.IMS_PER_BATCH // processes,
            "seed": run_seed(cfg),
            "group_by_shape": loader.ASPECT_RATIO_GROUPING,
            "num_workers": loader.NUM_WORKERS,
            "pin_memory": cfg.MODEL.DEVICE.startswith("cuda"),
        }

    def __iter__(self) -> Iterator[list[dict]]:
        batches = itertools.islice(self._batches(), self.first_batch, None)
        loader = DataLoader(
            _SeededImages(self.records, self.mapper, self.seed),
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            pin_memory=self.pin_memory,
            # its own: the model's generator must not feel the loader
            generator=torch.Generator().manual_seed(0),
        )
        yield from loader

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        """Lists of (place in the order of all processes together, index of the record)."""
        rank, processes = comm.get_rank(), comm.get_world_size()
        groups: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        for number, index in enumerate(TrainingSampler(len(self.records), seed=self.seed)):
            group = groups[0 if self._is_wide is None else self._is_wide[index]]
            group.append((number * processes + rank, index))
            if len(group) == self.images_per_process:
                yield group[:]
                group.clear()


class _SeededImages(Dataset):
    """(place, index) -> what the mapper makes of a record, whatever it draws being a function of seed and place."""

    def __init__(self, records, mapper, seed):
        self.records = records
        self.mapper = mapper
        self.seed = seed

    def __len__(self):
        return len(self.records)

    def __getitem__(self, place_and_index):
        place, index = place_and_index
        # without workers the generators are the model's: it must not feel how many images were loaded
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


def training_records(cfg) -> DatasetFromList:
    """The images of DATASETS.TRAIN that have enough keypoints, serialised so that workers share their memory."""
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE,
    )
    return DatasetFromList(records, copy=False)


def run_seed(cfg) -> int:
    """SEED, or where it is negative a number that the processes draw together."""
    return cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()


def hashed(*numbers: int) -> list[int]:
    """Three seeds of 32 bits that have nothing to do with those of any other numbers (>= 0)."""
    return np.random.SeedSequence(numbers).generate_state(3).tolist()


def _as_it_is(batch):
    return batch
