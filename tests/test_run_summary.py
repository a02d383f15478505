"""results.json: what it counts, and what it leaves out."""

import json

import pytest
import torch
from tiny_model import tiny_config
from torch import nn

from querypose.engine.run_summary import timed_inference, training_effort, write_results


def test_training_effort_over_an_interruption(tmp_path):
    file = tmp_path / "metrics.json"
    # written every 20 iterations; interrupted after 60 and gone on with from 40
    records = [(19, 1.0), (39, 1.0), (59, 1.0), (59, 2.0), (79, 2.0)]
    lines = [json.dumps({"iteration": iteration, "time": time}) for iteration, time in records]
    file.write_text("\n".join([*lines, json.dumps({"iteration": 79, "bbox/AP": 1.0})]) + "\n")
    iterations, seconds = training_effort(file)
    assert iterations == 80 and seconds == pytest.approx(20 + 20 + 40 + 40)


def test_only_evaluation_is_timed():
    model = nn.Linear(2, 2)
    with timed_inference(model) as seconds:
        model.train()(torch.zeros(1, 2))
        assert not seconds
        for _ in range(7):
            model.eval()(torch.zeros(1, 2))
    model(torch.zeros(1, 2))
    assert len(seconds) == 7 and all(0 < time < 1 for time in seconds)


def test_the_file(tmp_path):
    cfg = tiny_config("light", "OUTPUT_DIR", str(tmp_path), "SEED", 3, "DATASETS.TEST", ("keypoints_coco_2017_val",))
    metrics = {"bbox": {"AP": 12.5}, "keypoints": {"AP": 10.0, "APl": float("nan")}}
    write_results(cfg, "configs/a.yaml", metrics, [9.0] * 5 + [0.011, 0.013, 0.012])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"] == {"bbox": {"AP": 12.5}, "keypoints": {"AP": 10.0, "APl": None}}
    assert (results["config_file"], results["seed"]) == ("configs/a.yaml", 3)
    assert results["ms_per_image"] == pytest.approx(12)
    assert results["test_sets"] == ["keypoints_coco_2017_val"] and results["iterations"] is None
    assert results["processes"] == 1 and results["hardware"]
    # a Python with PyTorch takes some hundred MiB, which a mistaken unit would show
    assert 100 < results["peak_memory_mb"] < 50_000 or torch.cuda.is_available()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
