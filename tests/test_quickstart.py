"""The quick start from end to end, its training cut down to some seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*arguments):
    command = [sys.executable, "tools/quickstart.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@pytest.mark.slow
def test_evaluates_the_shipped_weights_trains_and_draws(tmp_path):
    result = run("--minutes", "0.05", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "ap.json").read_text())
    assert results["shipped weights"]["keypoints"]["AP"] >= 70
    assert results["this short run"]["keypoints"]["AP"] < results["shipped weights"]["keypoints"]["AP"]
    assert "short run" in result.stdout and "iterations" in result.stdout
    for name in ("predictions.png", "training.png"):
        assert min(Image.open(tmp_path / name).size) > 300
    assert "shipped weights" in (tmp_path / "ap.md").read_text()
    assert str(tmp_path) in result.stdout


def test_the_shipped_weights_are_small_and_say_where_they_come_from():
    weights = REPOSITORY / "weights/quickstart.pth"
    assert weights.stat().st_size <= 10 * 2**20
    record = json.loads(weights.with_suffix(".json").read_text())
    assert "tools/train_net.py" in record["command"] and record["iterations"] > 0 and record["minutes"] > 0
