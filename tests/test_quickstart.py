"""The quick start from end to end, its training cut down to some seconds."""

import os
from pathlib import Path

import fresh_process
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from querypose.data import register_all
from querypose.synthetic import dataset

ROOT = Path(__file__).resolve().parents[1]


def quickstart(output):
    """The tool itself, on fewer images."""
    for name in [name for name in DatasetCatalog.list() if name.startswith("synthetic_people")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    os.environ["DETECTRON2_DATASETS"] = str(output / "datasets")
    dataset.SPLIT_SIZES.update(minitrain=16, val=24)
    register_all()
    fresh_process.run_script(ROOT / "tools" / "quickstart.py", "--minutes", "0.02", "--output", output)


@pytest.mark.slow
def test_evaluates_the_shipped_weights_trains_and_draws(tmp_path):
    done = fresh_process.run(tmp_path, quickstart, tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:3] for line in (tmp_path / "ap.md").read_text().splitlines()[2:]]
    assert [name.strip() for name, _ in rows] == ["shipped weights", "this short run"]
    shipped, short = (float(ap) for _, ap in rows)
    assert shipped == pytest.approx(63.8, abs=1) and short < shipped  # 71.0 on all 300
    assert "This was a short run" in done.stdout and str(tmp_path) in done.stdout
    assert "total_loss" in (tmp_path / "log.txt").read_text() and "total_loss" not in done.stdout
    for name in ("predictions.png", "training.png", "photographs/grace_hopper.jpg"):
        assert min(Image.open(tmp_path / name).size) > 300
