"""Tools run in this process, a folder for them, and what every refusal of a user's mistake must look like."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from evaluation_data import one_person
from PIL import Image
from tiny_model import tiny_config

from querypose.errors import exit_on_user_error
from querypose.setup_config import setup_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with everything that tools need, whole: a config, weights, annotations, results, an image."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "images").mkdir()
    content, results = one_person()
    Image.new("RGB", (500, 500)).save(folder / "images" / "1.jpg")
    Image.new("RGB", (96, 64)).save(folder / "photo.jpg")
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))
    cfg = tiny_config("light", "DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", ())
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (f"{folder}/truth.json@{folder}/images",)
    cfg.OUTPUT_DIR = str(folder / "output")
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(setup_config(str(folder / "config.yaml"))).state_dict()}, folder / "model.pth")
    return folder


@pytest.fixture
def refused(workspace, monkeypatch, capsys):
    """refused(function, words): it ends as a user's mistake should, with these words in its sentence."""

    def contents(folder):
        files = [path for path in folder.rglob("*") if path.is_file() and "output" not in path.parts]
        return {path: path.read_bytes() for path in files}

    def check(function, words):
        before = contents(workspace)
        with pytest.raises(SystemExit) as caught, exit_on_user_error():
            function()
        printed = capsys.readouterr()
        assert caught.value.code == 2, printed.err
        assert "Traceback" not in printed.err + printed.out
        errors = re.findall(r"^(?:\S+\.py: )?error: (.*)$", printed.err, re.MULTILINE)
        assert len(errors) == 1 and printed.err.endswith(f"{errors[0]}\n"), printed.err  # the last that a user reads
        assert re.search(words, errors[0]) and len(errors[0].split()) >= 3, errors[0]
        assert contents(workspace) == before, "files were changed or written"

    monkeypatch.chdir(workspace)
    return check


def tool(name, *arguments):
    """A function that runs tools/<name>.py as a command would."""

    def run():
        path = str(ROOT / "tools" / f"{name}.py")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [path, *map(str, arguments)])
            patch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
            runpy.run_path(path, run_name="__main__")

    return run


def listed(entries):
    """Parameters with short names of their own."""
    return [pytest.param(*entry, id=str(number)) for number, entry in enumerate(entries)]
