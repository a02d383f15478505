"""The quick start from end to end, its training cut down to some seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]


# the tool itself, on fewer images
RUN = """
import runpy, sys
from querypose.synthetic import dataset
dataset.SPLIT_SIZES.update(minitrain=40, val=60)
sys.argv = ["tools/quickstart.py", "--minutes", "0.05", "--output", sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_evaluates_the_shipped_weights_trains_and_draws(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DETECTRON2_DATASETS": str(tmp_path / "datasets")}
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "ap.json").read_text())
    shipped, short = (results[name]["keypoints"]["AP"] for name in ("shipped weights", "this short run"))
    assert shipped == pytest.approx(69.4, abs=1) and short < shipped  # 71.0 on all 300
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
