"""tools/train_net.py and tools/test_net.py as a user runs them, on a few synthetic people."""

import json
import os
from pathlib import Path

import fresh_process
import pytest
import refusals
import torch
from killed_training import largest_difference, state_of

from querypose.engine import train_net
from querypose.synthetic.dataset import write_synthetic_people

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
TINY = (
    "MODEL.CHANNELS_LAST None MODEL.TIMM.OPTIONS.channels [8,8,16,16] MODEL.FPN.OUT_CHANNELS 16 "
    "MODEL.QUERYPOSE.HIDDEN_DIM 16 MODEL.QUERYPOSE.PART_DIM 16 MODEL.QUERYPOSE.NUM_QUERIES 6 "
    "MODEL.QUERYPOSE.NUM_STAGES 2 "
    "MODEL.QUERYPOSE.FEEDFORWARD_DIM 32 MODEL.QUERYPOSE.DYNAMIC_DIM 4 MODEL.QUERYPOSE.NUM_TOWER_LAYERS 2 "
    "MODEL.QUERYPOSE.TOWER_DIM 16 INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 "
    "SOLVER.CHECKPOINT_PERIOD 2 SOLVER.WARMUP_ITERS 1 TEST.EVAL_PERIOD 0 DATALOADER.NUM_WORKERS 0"
).split()


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    return [write_synthetic_people(folder, split, number) for split, number in (("train", 8), ("val", 4))]


def data_opts(people):
    return ["DATASETS.TRAIN", f"('{people[0]}',)", "DATASETS.TEST", f"('{people[1]}',)"]


@pytest.mark.slow
def test_train_resume_and_evaluate(people, tmp_path):
    def run_config(tool, folder, *opts, flags=()):
        opts = [*TINY, *data_opts(people), "OUTPUT_DIR", tmp_path / folder, *opts]
        script = ROOT / "tools" / tool
        done = fresh_process.run(tmp_path, fresh_process.run_script, script, "--config-file", QUICKSTART, *flags, *opts)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def lines():
        return [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]

    def predictions(folder):
        return json.loads((tmp_path / folder / "inference" / "coco_instances_results.json").read_text())

    run_config("train_net.py", "run", "SOLVER.MAX_ITER", 2)
    assert [line["iteration"] for line in lines() if "total_loss" in line] == [1]
    assert "KEYPOINT_NAMES:\n      - nose" in (tmp_path / "run" / "config.yaml").read_text()

    text = run_config("train_net.py", "run", "SOLVER.MAX_ITER", 4, flags=["--resume"])
    assert "Starting training from iteration 2" in text
    assert [line["iteration"] for line in lines() if "total_loss" in line] == [1, 3]

    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["iterations"] == 4 and results["metrics"]["keypoints"]["AP"] == lines()[-1]["keypoints/AP"]
    weights = ["MODEL.WEIGHTS", tmp_path / "run" / "model_final.pth"]
    for folder, tool, flags in (("again", "train_net.py", ["--eval-only"]), ("test", "test_net.py", [])):
        text = run_config(tool, folder, *weights, flags=flags)
        assert "Task: keypoints" in text and "Task: bbox" in text
        assert predictions(folder) == predictions("run")
        assert json.loads((tmp_path / folder / "results.json").read_text())["metrics"] == results["metrics"]
    assert len(predictions("run")) > 0


@pytest.mark.parametrize("trace", ["metrics.json", "model_0000001.pth"])
def test_a_run_is_not_overwritten(refused, tmp_path, trace):
    (tmp_path / trace).write_text("{}")
    words = rf"OUTPUT_DIR {tmp_path} already holds a run \({trace}\); continue it with --resume, or give another"
    refused(refusals.tool("train_net", "--config-file", "config.yaml", "OUTPUT_DIR", tmp_path), words)
    assert [path.name for path in tmp_path.iterdir()] == [trace] and (tmp_path / trace).read_text() == "{}"


def test_deterministic_runs_are_equal_to_the_bit(monkeypatch, people, tmp_path):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def train(name):
        data = ["DATASETS.TRAIN", f"('{people[0]}',)", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "3", "SEED", "-1"]
        opts = [*TINY, *data, "OUTPUT_DIR", str(tmp_path / name), "DATALOADER.NUM_WORKERS", "1"]
        args = train_net.parser().parse_args(["--config-file", str(QUICKSTART), "--deterministic", *opts])
        train_net.main(args)
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
