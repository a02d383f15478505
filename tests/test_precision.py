"""The precision that a predictor chooses, measured once; rounded weights give what autocast gives, to the last bit."""

import copy

import pytest
import torch
from tiny_model import spread, tiny_batch, tiny_config, tiny_model
from torch import nn

from querypose import PosePredictor, precision
from querypose.data import skeleton_of
from querypose.precision import convolution_seconds, fastest_precision, rounding_weights
from querypose.predictor import PRECISIONS

CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Seconds that a convolution takes from now on, by type, and the types that were measured."""
    seconds, found = {torch.float32: 1.0, torch.bfloat16: 0.5}, []
    monkeypatch.setattr(precision, "convolution_seconds", lambda dtype: found.append(dtype) or seconds[dtype])
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return seconds, found


@pytest.mark.parametrize(("bfloat16", "chosen"), [(0.79, "bfloat16"), (0.81, "float32")])
def test_bfloat16_where_it_is_clearly_faster(measured, bfloat16, chosen):
    measured[0][torch.bfloat16] = bfloat16
    predictor = PosePredictor("configs/quickstart.yaml", "weights/quickstart.pth", device="cpu")
    assert predictor.precision == chosen
    weight = predictor.model.decoder.keypoint_stages[0].part_embedding.upsample[0].weight
    assert weight.dtype == PRECISIONS[chosen]
    image = "docs/images/synthetic_people.jpg"
    assert len(predictor(image)) == len(predictor.with_attention(image)) == 3
    assert fastest_precision(torch.device("cuda")) == "float32" and len(measured[1]) == 2, "a GPU is not measured"


def test_a_machine_is_measured_once(measured, tmp_path, monkeypatch):
    assert fastest_precision(CPU) == "bfloat16" and len(measured[1]) == 2
    measured[0][torch.bfloat16] = 9.0
    assert fastest_precision(CPU) == "bfloat16" and len(measured[1]) == 2
    monkeypatch.setattr(precision.platform, "node", lambda: "another")
    assert fastest_precision(CPU) == "float32" and len(measured[1]) == 4
    (file,) = (tmp_path / "cache").glob("querypose_precision_another_*")
    file.write_bytes(b"\xff")
    assert fastest_precision(CPU) == "float32" and len(measured[1]) == 6


def test_a_measurement_is_a_time_and_leaves_the_threads_alone():
    threads = torch.get_num_threads()
    assert 0 < convolution_seconds(torch.float32, channels=8, side=4) < 1
    assert torch.get_num_threads() == threads


class Layers(nn.Module):
    """One layer of each kind: rounded, with autocast off, used both ways, and never called."""

    def __init__(self):
        super().__init__()
        self.rounded, self.exact, self.both, self.idle = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, values):
        values = self.both(self.rounded(values))
        with torch.autocast("cpu", enabled=False):
            return self.both(self.exact(values.float()))


def test_what_is_rounded():
    layers, values = Layers(), torch.randn(3, 4)
    before = copy.deepcopy(layers)
    results = []
    for context in (rounding_weights(layers, torch.bfloat16), torch.no_grad()):
        with context, torch.autocast("cpu", dtype=torch.bfloat16):
            results.append(layers(values))
    assert torch.equal(*results)
    assert layers.rounded.weight.dtype == layers.rounded.bias.dtype == torch.bfloat16
    assert torch.equal(layers.rounded.weight, before.rounded.weight.bfloat16())
    for name in ("exact", "both", "idle"):
        assert torch.equal(layers.get_submodule(name).weight, before.get_submodule(name).weight), name
    assert not layers.rounded._forward_pre_hooks


@pytest.mark.parametrize("variant", ["full", "light"])
def test_a_model_predicts_the_same(variant):
    model = spread(tiny_model(variant)).eval()

    def predict():
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            return [result["instances"] for result in model(tiny_batch())]

    wanted = predict()
    with rounding_weights(model, torch.bfloat16):
        predict()
    rounded = {name.rpartition(".")[0] for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    kinds = {type(model.get_submodule(name)).__name__ for name in rounded}
    assert kinds == {"Conv2d", "ConvTranspose2d", "Linear"}
    for ours, theirs in zip(predict(), wanted, strict=True):
        assert len(ours) and torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.pred_keypoints, theirs.pred_keypoints)


def test_a_given_model_is_not_rounded():
    cfg, model = tiny_config("light"), tiny_model("light")
    predictor = PosePredictor.from_model(model, cfg, skeleton_of(cfg), precision="bfloat16")
    predictor(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
