"""Batches of training: the same for any number of workers, from any of them on, and for any number of processes."""

import random

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tiny_model import tiny_config

from querypose.data import SkipUnreadable, TrainingLoader
from querypose.image_io import UnreadableImageError

RECORDS = [{"index": index, "width": 4 + index % 3, "height": 5, "file_name": f"{index}.jpg"} for index in range(7)]
UNGROUPED = ("DATALOADER.ASPECT_RATIO_GROUPING", False)


def drawing(record):
    """What a mapper would make of a record, with a number from each generator that augmentations draw from."""
    return {**record, "drawn": (random.random(), float(np.random.rand()), torch.rand(1).item())}


def batches(number, *opts, first=0, mapper=drawing, workers=0):
    opts = ("SEED", 11, "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", workers, *opts)
    loader = TrainingLoader(tiny_config("light", *opts), mapper, RECORDS)
    loader.first_batch = first
    iterator = iter(loader)
    return [next(iterator) for _ in range(number)]


def values(batches, key):
    return [entry[key] for batch in batches for entry in batch]


def test_order_is_a_permutation_of_the_images_in_every_epoch():
    seen = values(batches(7, *UNGROUPED), "index")
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7)) and seen[:7] != seen[7:]
    other = batches(7, *UNGROUPED, "SEED", 12)
    assert values(other, "index") != seen and not set(values(other, "drawn")) & set(values(batches(7), "drawn"))


def test_a_batch_holds_images_of_one_shape():
    found = [{entry["width"] > entry["height"] for entry in batch} for batch in batches(12)]
    assert all(len(shapes) == 1 for shapes in found) and {True} in found and {False} in found


def test_every_image_is_drawn_for_anew_and_the_model_s_generators_feel_nothing():
    seed_all_rng(4)
    wanted = torch.rand(1), random.random(), np.random.rand()
    seed_all_rng(4)
    drawn = values(batches(12), "drawn")
    assert (torch.rand(1), random.random(), np.random.rand()) == wanted
    assert len({number for numbers in drawn for number in numbers}) == 3 * 24


@pytest.mark.parametrize(("first", "workers"), [(1, 0), (5, 0), (2, 1), (2, 2)])
def test_any_batch_can_be_the_first_and_workers_make_no_difference(first, workers):
    assert batches(12 - first, first=first, workers=workers) == batches(12)[first:]


def test_two_processes_share_the_batch_of_one(monkeypatch):
    options = (*UNGROUPED, "SOLVER.IMS_PER_BATCH", 4)
    one, shares = batches(6, *options), []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(batches(6, *options))
    for whole, *both in zip(one, *shares, strict=True):
        assert len(both[0]) == 2 and sorted(values(both, "drawn")) == sorted(values([whole], "drawn"))


def test_the_substitute_of_an_unreadable_image_is_the_same_again(tmp_path):
    def reading(record):
        if record["index"] % 2:
            raise UnreadableImageError(f"{record['file_name']} cannot be read")
        return record

    def mapper():
        return SkipUnreadable(reading, tmp_path / "unreadable.txt", RECORDS)

    whole = batches(12, mapper=mapper())
    assert set(values(whole, "index")) == {0, 2, 4, 6}
    assert batches(8, first=4, mapper=mapper()) == whole[4:]
