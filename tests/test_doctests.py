"""The examples in docstrings and in the documentation print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
MODULES = ["querypose.predictor"]
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if ">>> " in path.read_text())


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Paths of the examples are the repository's; one that turns gradients off and fails leaves them on."""
    monkeypatch.chdir(ROOT)
    with torch.enable_grad():
        yield


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_the_documentation(page):
    result = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0
