"""Compiled stages: the same numbers, the way back where the compiler fails, copies, outputs that stay."""

import copy

import pytest
import torch
from tiny_model import spread, tiny_batch, tiny_model
from torch import nn

from querypose.modeling.ops.compilation import compile_module


@torch.no_grad()
def test_a_compiler_that_fails_leaves_the_plain_module(monkeypatch, messages):
    calls = []

    def failing(*args):
        calls.append(args)
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler found\nand more")

    plain = spread(tiny_model("light")).eval()(tiny_batch(), do_postprocess=False)
    monkeypatch.setattr(torch, "compile", lambda function, mode: failing)
    model = spread(tiny_model("light", "MODEL.COMPILE", "default")).eval()
    for _ in range(2):
        for result, wanted in zip(model(tiny_batch(), do_postprocess=False), plain, strict=True):
            assert torch.equal(result.pred_keypoints, wanted.pred_keypoints)
    assert len(calls) == 4, "two stages of each kind, tried once"
    assert "no C++ compiler found" in messages() and "and more" not in messages()


def test_a_copy_calls_its_own_weights_and_outputs_outlive_the_next_call(monkeypatch):
    buffer = torch.zeros(1)  # as a CUDA graph writes all its outputs to one place
    monkeypatch.setattr(torch, "compile", lambda function, mode: lambda *args: buffer.copy_(function(*args)))
    module = nn.Linear(1, 1, bias=False)
    compile_module(module, "reduce-overhead")
    other = copy.deepcopy(module)
    with torch.no_grad():
        module.weight.fill_(2.0)
        other.weight.fill_(5.0)
        first, second = module(torch.ones(1)), module(torch.full((1,), 3.0))
        assert (first.item(), second.item(), other(torch.ones(1)).item()) == (2.0, 6.0, 5.0)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_stages_compute_the_same():
    wanted = spread(tiny_model("light")).eval()(tiny_batch(), do_postprocess=False)
    model = spread(tiny_model("light", "MODEL.COMPILE", "default")).eval()
    assert model.state_dict().keys() == tiny_model("light").state_dict().keys()
    for result, expected in zip(model(tiny_batch(), do_postprocess=False), wanted, strict=True):
        torch.testing.assert_close(result.scores, expected.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(result.pred_keypoints, expected.pred_keypoints, rtol=1e-4, atol=1e-3)
