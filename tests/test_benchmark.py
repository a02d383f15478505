"""The benchmark on a tiny model: what it counts by hand, and the tool on its command line."""

import json
import math

import numpy as np
import pytest
import torch
from refusals import tool
from scipy.special import expit
from tiny_model import tiny_config
from torch import nn

from querypose.benchmark.clock import PartClock, peak_allocated_mb, repeat, summary
from querypose.benchmark.models import Benchmark
from querypose.benchmark.movenet import MoveNetDecoder, MoveNetMultiPose, find_peaks
from querypose.benchmark.reading import images_per_second
from querypose.benchmark.runs import to_markdown
from querypose.errors import UserError

SIZES = {"batch": 2, "height": 64, "width": 96, "repetitions": 1, "warm_up": 0}


@pytest.mark.parametrize("kind", ["inference", "training"])
def test_a_model_s_numbers(kind):
    cfg = tiny_config("light", "MODEL.QUERYPOSE.TRAIN_QUERIES", "matched")
    benchmark = Benchmark(cfg, **{**SIZES, "repetitions": 2})
    result = getattr(benchmark, kind)()
    assert result["parameters"] == sum(p.numel() for p in benchmark.model.parameters())
    assert result["repetitions"] == 2 and result["p90_ms"] >= result["median_ms"] > 0 and result["gflops"] > 0
    assert result["images_per_s"] == pytest.approx(2000 / result["median_ms"])
    assert {"backbone", "box stages", "keypoint stages", "other"} <= result["parts_ms"].keys()
    assert ({"matching", "backward", "optimizer"} <= result["parts_ms"].keys()) == (kind == "training")
    assert 0.1 < result["peak_memory_mb"] < 50
    json.dumps(result)


def test_keypoint_heads_run_for_the_given_number_of_persons():
    cfg = tiny_config("light", "MODEL.QUERYPOSE.NUM_QUERIES", 5)
    one, four = (Benchmark(cfg, persons=persons, **SIZES).inference() for persons in (1, 4))
    assert [one["persons"], four["persons"]] == [[2], [8]]
    with pytest.raises(UserError, match="5 queries"):
        Benchmark(cfg, persons=6, **SIZES).inference()


def test_times_by_hand():
    result = summary([0.1 * value for value in range(1, 12)])
    assert (result["median_ms"], result["p90_ms"]) == (pytest.approx(600), pytest.approx(1000))
    calls = []
    assert len(repeat(lambda: calls.append(1), repetitions=3, warm_up=2)) == 3 and len(calls) == 5
    clock, module = PartClock(), nn.Linear(2, 2)
    with clock.attached({"linear": [(module, "forward")]}):
        module(torch.ones(1, 2))
    before = dict(clock.seconds)
    module(torch.ones(1, 2))
    assert before["linear"] > 0 and clock.seconds == before


def test_peak_memory_of_tensors_by_hand():
    mebibyte = torch.ones(2**18)
    held = [torch.ones(3 * 2**18), mebibyte, mebibyte[:5]]  # four MiB, of which one twice

    def call():
        first = mebibyte + 1
        second = first + first
        del first, second
        return mebibyte.repeat(1).sum()

    assert peak_allocated_mb(call, "cpu", held) == pytest.approx(6, abs=0.01)
    matrix = torch.ones(512, 512, requires_grad=True)
    # kept for the backward pass: tanh's output; then the gradient of the sum, expanded, and of the product
    assert peak_allocated_mb(lambda: matrix.tanh(), "cpu", []) == pytest.approx(1, abs=0.01)
    assert peak_allocated_mb(lambda: matrix.tanh().sum().backward(), "cpu", []) == pytest.approx(2, abs=0.01)


def test_tool(workspace, monkeypatch, tmp_path, capsys):
    """Both models, then the same call again, which has nothing left to do."""
    monkeypatch.chdir(workspace)
    flags = ["--config-file", "config.yaml", "--what", "inference", "--peer", "--size", 64, 96, "--repetitions", 1]
    run = tool("benchmark", *flags, "--warm-up", 0, "--persons", 2, "--output", tmp_path / "b.json")
    run()
    runs = json.loads((tmp_path / "b.json").read_text())["runs"]
    suffix = "1x64x96, float32, persons 2"
    assert list(runs) == [f"inference, config, {suffix}", f"inference, Keypoint R-CNN R50, {suffix}"]
    assert all(result["persons"] == [2] for result in runs.values())
    assert all(name in (tmp_path / "b.md").read_text() for name in runs)
    capsys.readouterr()
    run()
    assert capsys.readouterr().out.count("done before") == 2


def test_reading_rates_and_the_table():
    cfg = tiny_config("light", "DATALOADER.NUM_WORKERS", 1, "SOLVER.IMS_PER_BATCH", 1)
    rates = images_per_second(cfg, height=64, width=96, repetitions=3)
    assert list(rates) == ["training mapper", "data loader, 1 workers"] and min(rates.values()) > 0
    run = {
        "median_ms": 1500.0, "p90_ms": 1600.0, "images_per_s": 0.667, "peak_memory_mb": 100.4, "parameters": 2e6,
        "persons": [3, 5], "gflops": 12.3, "parts_ms": {"backbone": 200.2, "other": 1.0},
    }  # fmt: skip
    table = to_markdown({"machine": {"threads": 2}, "runs": {"a model": run, "data": {"reading": {"mapper": 48.4}}}})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    numbers = ["1500", "1600", "0.67", "3 or 5", "100", "2.0", "12", "backbone 200, other 1"]
    assert ["a model", *numbers] in cells and ["mapper", "48"] in cells


def test_movenet_s_decoder_by_hand():
    """One person and two keypoints, on maps of 8 x 12 locations of 4 pixels."""
    maps = {name: torch.zeros(1, n, 8, 12) for name, n in (("offset", 2), ("size", 2), ("keypoint_offset", 4))}
    maps["center"], maps["regression"] = torch.full((1, 1, 8, 12), -20.0), torch.zeros(1, 4, 8, 12)
    maps["heatmaps"] = torch.full((1, 2, 8, 12), -20.0)
    maps["center"][0, 0, 3, 5], maps["center"][0, 0, 3, 6] = 1.0, 0.9  # the second is no peak
    maps["offset"][0, :, 3, 5] = torch.tensor([0.5, 0.25])
    maps["size"][0, :, 3, 5] = torch.tensor([4.0, 8.0])
    maps["regression"][0, :, 3, 5] = torch.tensor([2.0, 2.0, -1.0, -1.0])  # (y, x) = (5, 7) and (2, 4)
    maps["heatmaps"][0, 0, 4, 8], maps["heatmaps"][0, 0, 6, 7] = 1.0, 5.0  # the nearer, higher one is outside the box
    maps["heatmaps"][0, 1, 2, 4] = -3.0
    maps["keypoint_offset"][0, :2, 4, 8] = torch.tensor([0.25, 0.5])
    assert find_peaks(maps["center"], 2)[0][0, 1] != 3 * 12 + 6
    locations, scores = find_peaks(maps["center"], 1)
    assert locations.tolist() == [[3 * 12 + 5]] and scores.item() == pytest.approx(expit(1))
    boxes, scores, keypoints = MoveNetDecoder()(locations, scores, maps)
    assert boxes[0, 0].tolist() == [5.0, 6.0, 37.0, 22.0]
    confidence = expit(1) * math.exp(-2 / (0.3 * 8))
    expected = torch.tensor([[34.0, 17.0, confidence], [16.0, 8.0, expit(-3)]], dtype=torch.float32)
    torch.testing.assert_close(keypoints[0, 0], expected, rtol=1e-6, atol=0)
    assert scores.item() == pytest.approx(expit(1) * confidence), "a keypoint below 0.127 does not count"
    # with a person who expects a keypoint just there, its confidence is that person's
    maps["size"][0, :, 4, 8] = 4.0
    _, _, keypoints = MoveNetDecoder()(torch.tensor([[3 * 12 + 5, 4 * 12 + 8]]), torch.ones(1, 2), maps)
    assert keypoints[0, :, 0, 2].tolist() == pytest.approx(2 * [expit(1)])


def test_movenet_beside_ours(shared_folder):
    recorded = np.load(shared_folder / "parity" / "movenet_multipose.npz")
    model = MoveNetMultiPose(str(shared_folder / "movenet" / "movenet-multipose.json"))
    image = torch.from_numpy(recorded["image"]).permute(2, 0, 1)
    offsets = model.keypoint_offset(model.backbone.pyramid(image[None] / 127.5 - 1)["p2"])[0]
    assert torch.allclose(offsets.permute(1, 2, 0), torch.from_numpy(recorded["offset"]), rtol=0, atol=1e-3)
    result = Benchmark(tiny_config("light"), persons=3, model=model, **SIZES).inference()
    assert result["persons"] == [6] and result["parts_ms"].keys() == {"backbone", "heads", "decoder", "other"}
