"""tools/train_net.py and tools/test_net.py as a user runs them, on a few synthetic people."""

import json
import os
import platform
import resource
from pathlib import Path

import fresh_process
import pytest
import refusals
import torch
from killed_training import config, largest_difference, state_of
from tiny_model import tiny_config
from torch import nn

from querypose.engine import train_net
from querypose.engine.run_summary import timed_inference, training_effort, write_results

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config_file(people, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(config(people, tmp_path, "INPUT.MIN_SIZE_TEST", 64, "SEED", -1).dump())
    return str(file)


@pytest.mark.slow
def test_train_resume_and_evaluate(config_file, people, tmp_path):
    def run(tool, folder, *opts, flags=(), code=0):
        script, opts = ROOT / "tools" / tool, ["DATASETS.TEST", people, "OUTPUT_DIR", tmp_path / folder, *opts]
        given = ["--config-file", config_file, *flags, *opts]
        done = fresh_process.run(tmp_path, fresh_process.run_script, script, *given)
        assert done.returncode == code, done.stderr
        predictions = (tmp_path / folder / "inference" / "coco_instances_results.json").read_text()
        return done.stdout + done.stderr, predictions, json.loads((tmp_path / folder / "results.json").read_text())

    def lines():
        return [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]

    run("train_net.py", "run", "SOLVER.MAX_ITER", 2)
    assert [line["iteration"] for line in lines() if "total_loss" in line] == [1]
    assert "KEYPOINT_NAMES:\n      - nose" in (tmp_path / "run" / "config.yaml").read_text()
    # results stay where TEST.EXPECTED_RESULTS are missed
    longer = ("SOLVER.MAX_ITER", 4, "TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 101.0, 0.1]]")
    text, predictions, results = run("train_net.py", "run", *longer, flags=["--resume"], code=1)
    assert "Starting training from iteration 2" in text
    assert [line["iteration"] for line in lines() if "total_loss" in line] == [1, 3]
    assert results["iterations"] == 4 and results["metrics"]["keypoints"]["AP"] == lines()[-1]["keypoints/AP"]
    assert results["seed"] == -1
    # a Python with PyTorch takes some hundred MiB, which a mistaken unit would show
    assert 100 < results["peak_memory_mb"] < 50_000 and results["processes"] == 1 and results["hardware"]

    evaluated, again, measured = run("test_net.py", "test", "MODEL.WEIGHTS", tmp_path / "run" / "model_final.pth")
    assert "Task: keypoints" in evaluated and "Task: bbox" in evaluated
    assert again == predictions and len(json.loads(again)) > 0
    assert measured["metrics"] == results["metrics"] and measured["iterations"] is None


def test_what_results_count(tmp_path):
    file = tmp_path / "metrics.json"
    # written every 20 iterations; interrupted after 60 and gone on with from 40; then killed while writing
    records = [(19, 1.0), (39, 1.0), (59, 1.0), (59, 2.0), (79, 2.0)]
    lines = [json.dumps({"iteration": iteration, "time": time}) for iteration, time in records]
    file.write_text("\n".join([*lines, "\0", json.dumps({"iteration": 79, "bbox/AP": 1.0}), '{"iteration": 99, "t']))
    assert training_effort(file) == (80, pytest.approx(20 + 20 + 40 + 40))
    model = nn.Linear(2, 2)
    with timed_inference(model) as seconds:
        model.train()(torch.zeros(1, 2))
        assert not seconds, "only evaluation is timed"
        for _ in range(7):
            model.eval()(torch.zeros(1, 2))
    assert len(seconds) == 7 and all(0 < time < 1 for time in seconds)
    cfg = tiny_config("light", "OUTPUT_DIR", str(tmp_path))
    metrics = {"bbox": {"AP": 12.5}, "keypoints": {"AP": 10.0, "APl": float("nan")}}
    write_results(cfg, metrics, [9.0] * 5 + [0.011, 0.013, 0.012])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"] == {"bbox": {"AP": 12.5}, "keypoints": {"AP": 10.0, "APl": None}}
    assert results["ms_per_image"] == pytest.approx(12)


@pytest.mark.parametrize("trace", ["metrics.json", "model_0000001.pth"])
def test_a_run_is_not_overwritten(refused, tmp_path, trace):
    (tmp_path / trace).write_text("{}")
    words = rf"OUTPUT_DIR {tmp_path} holds a run \({trace}\); continue it with --resume, or give another"
    refused(refusals.tool("train_net", "--config-file", "config.yaml", "OUTPUT_DIR", tmp_path), words)
    assert [path.name for path in tmp_path.iterdir()] == [trace] and (tmp_path / trace).read_text() == "{}"


def print_denormals_and_page_faults():
    train_net.speed_up_cpu_training(tiny_config())
    print(bool(torch.tensor(1e-40) * 1 == 0))
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(64 * 2**18)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back that soon")
def test_denormals_are_flushed_and_memory_is_kept(tmp_path):
    """Pages for a tensor of 64 MiB after others like it would be 16,384 of 4 KiB, or 32 of 2 MiB."""
    flushed, faults = fresh_process.run(tmp_path, print_denormals_and_page_faults).stdout.split()
    assert flushed == "True" and int(faults) < 10


def test_deterministic_runs_are_equal_to_the_bit(monkeypatch, config_file, tmp_path):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def train(name):
        opts = ["SOLVER.MAX_ITER", "3", "OUTPUT_DIR", str(tmp_path / name), "DATALOADER.NUM_WORKERS", "1"]
        train_net.main(train_net.parser().parse_args(["--config-file", config_file, "--deterministic", *opts]))
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert "SEED: 0" in (tmp_path / name / "config.yaml").read_text()
        return state_of(tmp_path / name)

    try:
        first = train("first")
        torch.rand(3)
        assert largest_difference(first, train("second")) == 0
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_flush_denormal(False)
