"""Batches of training: the same for any number of workers, from any of them on, and for any number of processes."""

import random

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tiny_model import tiny_config

from querypose.data import SkipUnreadable, TrainingLoader
from querypose.errors import UserError
from querypose.image_io import UnreadableImageError

RECORDS = [{"index": index, "width": 4 + index % 3, "height": 5, "file_name": f"{index}.jpg"} for index in range(7)]


def drawing(record):
    """What a mapper would make of a record, with a number from each generator that augmentations draw from."""
    return {**record, "drawn": (random.random(), float(np.random.rand()), torch.rand(1).item())}


def batches(number, first=0, mapper=drawing, **options):
    cfg = tiny_config("light", "SEED", 11, "SOLVER.IMS_PER_BATCH", 2)
    for key, value in options.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    loader = TrainingLoader(cfg, mapper, RECORDS)
    loader.first_batch = first
    iterator = iter(loader)
    return [next(iterator) for _ in range(number)]


def without_workers(number=12, **options):
    return batches(number, DATALOADER__NUM_WORKERS=0, **options)


def test_order_is_a_permutation_of_the_images_in_every_epoch():
    seen = [entry["index"] for batch in without_workers(7, DATALOADER__ASPECT_RATIO_GROUPING=False) for entry in batch]
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7)) and seen[:7] != seen[7:]


def test_a_batch_holds_images_of_one_shape():
    found = [{entry["width"] > entry["height"] for entry in batch} for batch in without_workers()]
    assert all(len(shapes) == 1 for shapes in found) and {True} in found and {False} in found


def test_every_image_is_drawn_for_anew_and_the_model_s_generators_feel_nothing():
    seed_all_rng(4)
    wanted = torch.rand(1), random.random(), np.random.rand()
    seed_all_rng(4)
    drawn = [entry["drawn"] for batch in without_workers() for entry in batch]
    assert (torch.rand(1), random.random(), np.random.rand()) == wanted
    assert len({number for numbers in drawn for number in numbers}) == 3 * 24


@pytest.mark.parametrize("first", [1, 5])
def test_any_batch_can_be_the_first(first):
    assert without_workers(12 - first, first=first) == without_workers()[first:]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_no_difference(workers):
    assert batches(9, first=2, DATALOADER__NUM_WORKERS=workers) == without_workers(9, first=2)


def test_another_seed_is_another_order_and_other_augmentations():
    first, second = without_workers(4), without_workers(4, SEED=12)
    assert [entry["index"] for batch in first for entry in batch] != [e["index"] for batch in second for e in batch]
    assert not {e["drawn"] for batch in first for e in batch} & {e["drawn"] for batch in second for e in batch}


def test_two_processes_share_the_batch_of_one(monkeypatch):
    options = {"DATALOADER__ASPECT_RATIO_GROUPING": False, "SOLVER__IMS_PER_BATCH": 4}
    one = without_workers(6, **options)
    shares = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(without_workers(6, **options))
    for number, whole in enumerate(one):
        both = [entry for share in shares for entry in share[number]]
        assert len(shares[0][number]) == 2
        assert sorted(both, key=lambda entry: entry["drawn"]) == sorted(whole, key=lambda entry: entry["drawn"])


def test_processes_that_do_not_divide_the_batch(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(UserError, match="IMS_PER_BATCH is 2; it must be a multiple of 3"):
        without_workers()


def test_the_substitute_of_an_unreadable_image_is_the_same_again(tmp_path):
    def reading(record):
        if record["index"] % 2:
            raise UnreadableImageError(f"{record['file_name']} cannot be read")
        return record

    def mapper():
        return SkipUnreadable(reading, tmp_path / "unreadable.txt", RECORDS)

    whole = without_workers(mapper=mapper())
    assert {entry["index"] for batch in whole for entry in batch} == {0, 2, 4, 6}
    assert without_workers(8, first=4, mapper=mapper()) == whole[4:]
