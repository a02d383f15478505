"""The benchmark on a tiny model: what it counts by hand, and the tool on its command line."""

import json

import numpy as np
import pytest
import torch
from tiny_model import tiny_config
from torch import nn

from querypose.benchmark.clock import PartClock, peak_gflops, repeat, summary
from querypose.benchmark.models import Benchmark, made_up_batch
from querypose.benchmark.reading import decode, made_up_photograph


@pytest.mark.parametrize("kind", ["inference", "training"])
def test_a_model_s_numbers(kind):
    cfg = tiny_config("light", "MODEL.QUERYPOSE.TRAIN_QUERIES", "matched")
    benchmark = Benchmark(cfg, batch=2, height=64, width=96, repetitions=2, warm_up=0)
    result = getattr(benchmark, kind)()
    assert result["parameters"] == sum(p.numel() for p in benchmark.model.parameters())
    assert result["repetitions"] == 2 and result["p90_ms"] >= result["median_ms"] > 0 and result["gflops"] > 0
    assert result["images_per_s"] == pytest.approx(2000 / result["median_ms"])
    assert {"backbone", "box stages", "keypoint stages", "other"} <= result["parts_ms"].keys()
    assert ({"matching", "backward", "optimiser"} <= result["parts_ms"].keys()) == (kind == "training")
    assert result["peak_memory_mb"] > 10 and result["machine_gflops_per_s"] > 0
    json.dumps(result)


def test_median_and_p90():
    assert summary([0.1 * value for value in range(1, 12)])["median_ms"] == pytest.approx(600)
    assert summary([0.1 * value for value in range(1, 12)])["p90_ms"] == pytest.approx(1000)


def test_warm_up_does_not_count():
    calls = []
    assert len(repeat(lambda: calls.append(1), "cpu", repetitions=3, warm_up=2)) == 3 and len(calls) == 5


def test_clock_adds_up_and_lets_go():
    clock, module = PartClock("cpu"), nn.Linear(2, 2)
    with clock.attached({"linear": [module]}):
        module(torch.ones(1, 2))
    before = clock.seconds["linear"]
    module(torch.ones(1, 2))
    assert before > 0 and clock.seconds["linear"] == before


def test_peak_rate_is_positive():
    assert peak_gflops("cpu", size=64, repetitions=1) > 0


def test_the_batch_is_the_same_each_time():
    first, second = (made_up_batch(1, 64, 96, persons=3) for _ in range(2))
    assert torch.equal(first[0]["image"], second[0]["image"]) and len(first[0]["instances"]) == 3


def test_decoders_agree():
    data = made_up_photograph(240, 320)
    images = [decode(data, decoder, 120).astype(float) for decoder in ("PIL", "PIL draft", "cv2")]
    assert all(image.shape == (120, 160, 3) for image in images)
    assert all(np.abs(image - images[0]).mean() < 6 for image in images)
