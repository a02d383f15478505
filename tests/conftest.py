"""Fixtures that several test files share."""

import io
import logging
import os
from pathlib import Path

import pytest
import torch
from demo_stub import demo  # noqa: F401  (a fixture)
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from refusals import refused, workspace  # noqa: F401  (fixtures)

from querypose.synthetic.dataset import write_synthetic_people

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _same_start():
    """The same seed and PyTorch's default float arithmetic for every test; a trainer changes the latter on CPUs."""
    torch.manual_seed(0)
    yield
    torch.set_flush_denormal(False)
    # handlers that write to this test's captured output, which the next one would find closed
    for logger in map(logging.getLogger, ("", "detectron2", "fvcore", "querypose")):
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and "pytest" not in type(handler).__module__:
                logger.removeHandler(handler)
    setup_logger.cache_clear()


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of parity references and photographs beside the checkout; tests that need it skip without it."""
    folder = Path(os.environ.get("QUERYPOSE_SHARED", SHARED))
    if not folder.is_dir():
        pytest.skip(f"needs the parity references and photographs in {folder}, which are not part of the project")
    return folder


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> str:
    """Synthetic people to train on, five images, as DATASETS.TRAIN names them."""
    return write_synthetic_people(tmp_path_factory.mktemp("people"), "train", 5)


@pytest.fixture(scope="session")
def finished(people, tmp_path_factory) -> Path:
    """A run of 5 iterations; copy it to write into it."""
    from killed_training import config, train  # slow to import

    folder = tmp_path_factory.mktemp("run")
    train(config(people, folder, "SOLVER.MAX_ITER", 5))
    return folder


@pytest.fixture
def messages():
    """A function that returns what the `querypose` loggers have logged from INFO on."""
    logger, stream = logging.getLogger("querypose"), io.StringIO()
    handler, level = logging.StreamHandler(stream), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream.getvalue
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint's content to a file, and return its path."""

    def write(content):
        torch.save(content, tmp_path / "theirs.pth")
        return str(tmp_path / "theirs.pth")

    return write


@pytest.fixture
def own_data_sets(tmp_path, monkeypatch):
    """What a test registers is forgotten after it, and what it caches is in a folder of its own."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
