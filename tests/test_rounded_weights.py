"""Weights that are rounded once give what autocast gives, to the last bit."""

import copy

import pytest
import torch
from tiny_model import spread, tiny_batch, tiny_config, tiny_model
from torch import nn

from querypose.data import skeleton_of
from querypose.predictor import PosePredictor
from querypose.rounded_weights import rounding_weights


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


def test_a_predictor_rounds_its_own_model_alone():
    cfg = tiny_config("light")
    model = spread(tiny_model("light"))
    predictor = PosePredictor.from_model(model, cfg, skeleton_of(cfg), precision="bfloat16")
    predictor(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())

    image = "docs/images/synthetic_people.jpg"
    predictor = PosePredictor("configs/quickstart.yaml", "weights/quickstart.pth", device="cpu", precision="bfloat16")
    assert predictor.model.decoder.keypoint_stages[0].part_embedding.upsample[0].weight.dtype == torch.bfloat16
    persons = predictor(image)
    assert len(persons) and len(predictor.with_attention(image)) == len(persons)
