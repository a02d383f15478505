"""Compiled stages: the same numbers, the way back where the compiler fails, errors of the module, copies."""

import copy

import pytest
import torch
from tiny_model import spread, tiny_batch, tiny_model
from torch import nn

from querypose.modeling.ops.compilation import compile_module

COMPILE = ("MODEL.COMPILE", "default")


class Scale(nn.Module):
    def __init__(self, error=None):
        super().__init__()
        self.weight, self.error = nn.Parameter(torch.tensor(2.0)), error

    def forward(self, value):
        if self.error is not None:
            raise self.error
        return self.weight * value


def compiler_of(compiled):
    """A stand-in for torch.compile: `compiled(function, *args)` in place of every compiled function."""
    return lambda function, mode: lambda *args: compiled(function, *args)


@torch.no_grad()
def test_a_compiler_that_fails_leaves_the_plain_module(monkeypatch, messages):
    calls = []

    def failing(function, *args):
        calls.append(function)
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler found\nand more")

    plain = spread(tiny_model("light")).eval()(tiny_batch(), do_postprocess=False)
    monkeypatch.setattr(torch, "compile", compiler_of(failing))
    model = spread(tiny_model("light", *COMPILE)).eval()
    for _ in range(2):
        for result, wanted in zip(model(tiny_batch(), do_postprocess=False), plain, strict=True):
            assert torch.equal(result.pred_keypoints, wanted.pred_keypoints)
    assert len(calls) == 4, "two stages of each kind, tried once"
    assert "no C++ compiler found" in messages() and "and more" not in messages()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("of the GPU"), KeyError("a")])
def test_errors_of_the_module_are_raised_and_leave_it_compiled(error, monkeypatch, messages):
    calls = []

    def compiled(function, *args):
        calls.append(args)
        return function(*args)

    monkeypatch.setattr(torch, "compile", compiler_of(compiled))
    module = Scale(error)
    compile_module(module, "default")
    with pytest.raises(type(error), match=error.args[0]):
        module(1.0)
    module.error = None
    assert module(3.0) == 6.0 and len(calls) == 2 and not messages()


def test_a_copy_calls_its_own_weights(monkeypatch):
    monkeypatch.setattr(torch, "compile", compiler_of(lambda function, *args: function(*args)))
    module = nn.Sequential(Scale())
    compile_module(module[0], "default")
    other = copy.deepcopy(module)
    with torch.no_grad():
        other[0].weight.fill_(5.0)
    assert module(torch.tensor(1.0)) == 2.0 and other(torch.tensor(1.0)) == 5.0


@pytest.mark.slow
@torch.no_grad()
def test_compiled_stages_compute_the_same():
    wanted = spread(tiny_model("light")).eval()(tiny_batch(), do_postprocess=False)
    model = spread(tiny_model("light", *COMPILE)).eval()
    assert model.state_dict().keys() == tiny_model("light").state_dict().keys()
    for result, expected in zip(model(tiny_batch(), do_postprocess=False), wanted, strict=True):
        torch.testing.assert_close(result.scores, expected.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(result.pred_keypoints, expected.pred_keypoints, rtol=1e-4, atol=1e-3)
    # a shape error while compiling is the module's own
    module = nn.Linear(3, 2)
    compile_module(module, "default")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        module(torch.zeros(1, 4))
