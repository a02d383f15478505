"""The precision that a predictor chooses by itself: measured once, then read."""

import pytest
import torch

from querypose import PosePredictor, auto_precision
from querypose.auto_precision import convolution_seconds, fastest_precision
from querypose.predictor import PRECISIONS

CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Seconds that a convolution takes from now on, by type, and the types that were measured."""
    seconds, found = {torch.float32: 1.0, torch.bfloat16: 0.5}, []
    monkeypatch.setattr(auto_precision, "convolution_seconds", lambda dtype: found.append(dtype) or seconds[dtype])
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return seconds, found


@pytest.mark.parametrize(("bfloat16", "chosen"), [(0.79, "bfloat16"), (0.81, "float32")])
def test_bfloat16_where_it_is_clearly_faster(measured, bfloat16, chosen):
    measured[0][torch.bfloat16] = bfloat16
    predictor = PosePredictor("configs/quickstart.yaml", "weights/quickstart.pth", device="cpu")
    assert predictor.precision == chosen
    weight = predictor.model.decoder.keypoint_stages[0].part_embedding.upsample[0].weight
    assert weight.dtype == PRECISIONS[chosen]
    assert len(predictor("docs/images/synthetic_people.jpg")) == 3
    assert fastest_precision(torch.device("cuda")) == "float32" and len(measured[1]) == 2, "a GPU is not measured"


def test_a_machine_is_measured_once(measured, tmp_path, monkeypatch):
    assert fastest_precision(CPU) == "bfloat16" and len(measured[1]) == 2
    measured[0][torch.bfloat16] = 9.0
    assert fastest_precision(CPU) == "bfloat16" and len(measured[1]) == 2
    monkeypatch.setattr(auto_precision.platform, "node", lambda: "another")
    assert fastest_precision(CPU) == "float32" and len(measured[1]) == 4
    (file,) = (tmp_path / "cache").glob("querypose_precision_another_*")
    file.write_bytes(b"\xff")
    assert fastest_precision(CPU) == "float32" and len(measured[1]) == 6


def test_a_measurement_is_a_time_and_leaves_the_threads_alone():
    threads = torch.get_num_threads()
    assert 0 < convolution_seconds(torch.float32, channels=8, side=4) < 1
    assert torch.get_num_threads() == threads
