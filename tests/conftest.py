"""Fixtures that several test files share."""

import io
import logging
import os
from pathlib import Path

import pytest
import torch
from demo_stub import demo  # noqa: F401  (a fixture)
from refusals import refused, workspace  # noqa: F401  (fixtures)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _same_start():
    """The same random numbers for every test, and float arithmetic as PyTorch sets it: a trainer changes it on CPUs."""
    torch.manual_seed(0)
    for name in ("detectron2", "fvcore", "querypose"):  # set up in an earlier test, on that test's captured stream
        for handler in list(logging.getLogger(name).handlers):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logging.getLogger(name).removeHandler(handler)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of parity figures and photographs beside the checkout; tests that need it skip without it."""
    folder = Path(os.environ.get("QUERYPOSE_SHARED", SHARED))
    if not folder.is_dir():
        pytest.skip(f"needs the parity figures and photographs in {folder}, which are not part of the project")
    return folder


@pytest.fixture
def messages():
    """What the `querypose` loggers have said from INFO on, as text: call it. Works however Detectron2 set them up."""
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
