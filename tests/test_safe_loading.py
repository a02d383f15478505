"""Checkpoints of unknown origin: honest ones are read to the last number, and no code in the others is run."""

import argparse
import collections
import os
import pickle

import numpy as np
import pytest
import torch
from bad_inputs import Code
from safetensors.torch import save_file
from tiny_model import tiny_model
from torch import nn

from querypose.engine.checkpointer import PoseCheckpointer
from querypose.errors import UserError
from querypose.predictor import load_weights
from querypose.safe_loading import PLAIN_WEIGHTS, SafeCheckpointer, find_weights, read_checkpoint


def read_pickle(file):
    return SafeCheckpointer(nn.Linear(1, 1))._load_file(str(file))


ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "column_order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.array([0.5, -2.0], np.float16),
    "integer": np.array([[-1], [2**40]]),
    "big_endian": np.array([1.5, 3.0], ">f4"),
    "flag": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
    "no_dimension": np.array(7.25),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_are_read_as_they_were_written(tmp_path, protocol):
    content = {"model": ARRAYS, "__author__": "somebody", "scalar": np.float64(0.125), "list": [1, (2.5, None)]}
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(file)
    for name, array in ARRAYS.items():
        assert found["model"][name].dtype == array.dtype.newbyteorder("="), name
        assert found["model"][name].flags.writeable
        np.testing.assert_array_equal(found["model"][name], array)
    assert (found["__author__"], found["scalar"], found["list"]) == ("somebody", 0.125, [1, (2.5, None)])


def test_a_file_of_the_model_zoo_written_by_python_2_is_read(tmp_path):
    # text where Python 3 has bytes: how Detectron2's own R-50.pkl keeps its arrays
    file = tmp_path / "R-50.pkl"
    file.write_bytes(
        b"\x80\x02}q\x01U\x05modelq\x02}q\x03U\x01wq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\xc0\x3f\x00\x00\x80\xc0tbssU\n__author__U\x0btorchvisions."
    )
    assert pickle.loads(file.read_bytes(), encoding="latin1")["model"]["w"].tolist() == [1.5, -4.0], "a true pickle"
    found = read_pickle(file)
    assert found["model"]["w"].tolist() == [1.5, -4.0] and found["__author__"] == "torchvision"


def test_a_pickled_backbone_fills_the_backbone(tmp_path):
    """In Detectron2's own format: names without the model's prefix, to be matched by suffix."""
    model, file = tiny_model(), tmp_path / "resnet.pkl"
    state = {
        name.removeprefix("backbone.bottom_up."): tensor.numpy() + 1
        for name, tensor in model.state_dict().items()
        if name.startswith("backbone.bottom_up.") and tensor.is_floating_point()
    }
    file.write_bytes(pickle.dumps({"model": state, "__author__": "torchvision", "matching_heuristics": True}, 2))
    PoseCheckpointer(model).load(str(file))
    for name, array in state.items():
        np.testing.assert_array_equal(model.state_dict()[f"backbone.bottom_up.{name}"], array)


def hostile(kind, marker, file):
    """Write a file that makes the folder `marker` when an ordinary unpickler reads it."""
    weights = {"model": {"w": torch.zeros(2)}, "extra": Code(marker)}
    if kind == "zip":
        torch.save(weights, file)
    elif kind == "legacy":
        torch.save(weights, file, _use_new_zipfile_serialization=False)
    elif kind == "state":
        torch.save(Code(marker), file)
    else:
        file.write_bytes(pickle.dumps(weights if kind == "extra" else Code(marker), 2))


READERS = {
    "load": lambda file: PoseCheckpointer(nn.Linear(2, 1)).load(file),
    "resume": lambda file: PoseCheckpointer(nn.Linear(2, 1), os.path.dirname(file)).resume_or_load("", resume=True),
    "inference": lambda file: load_weights(nn.Linear(2, 1), file),
    "converters": lambda file: find_weights(read_checkpoint(file), file),
}


@pytest.mark.parametrize(
    ("reader", "suffix"), [("resume", ".pth"), *((r, s) for r in READERS if r != "resume" for s in (".pth", ".pkl"))]
)
@pytest.mark.parametrize("kind", ["zip", "legacy", "state", "pickle"])
def test_no_code_is_run(tmp_path, reader, suffix, kind):
    file, marker = tmp_path / f"model_final{suffix}", tmp_path / "run"
    hostile(kind, marker, file)
    (tmp_path / "last_checkpoint").write_text(file.name)
    with pytest.raises(UserError) as error:
        READERS[reader](str(file))
    # --resume skips damaged checkpoints, and then names the folder
    named = tmp_path if reader == "resume" else file
    assert not marker.exists() and "\n" not in str(error.value) and str(named) in str(error.value)
    if kind == "pickle" and suffix == ".pkl" and reader != "resume":
        assert "loading it would run code (posix.mkdir)" in str(error.value)


def test_the_hostile_files_are_hostile_and_name_their_class(save, tmp_path):
    with pytest.raises(UserError, match=r"would run code \(argparse.Namespace\); where you trust its source, save the"):
        read_checkpoint(save({"model": {"w": torch.zeros(2)}, "arguments": argparse.Namespace(lr=1)}))
    for number, kind in enumerate(("zip", "legacy", "state")):
        hostile(kind, tmp_path / f"run{number}", tmp_path / "file")
        torch.load(tmp_path / "file", weights_only=False)
        assert (tmp_path / f"run{number}").is_dir()


RECONSTRUCT = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (pickle.dumps({"a": np.array([{}], object)}), "something else than numbers"),
        (pickle.dumps({"a": np.zeros(2, "f4,O")}), "something else than numbers"),
        (pickle.dumps({"a": np.array(["text"])}), "something else than numbers"),
        (pickle.dumps({"a": collections.Counter("aa")}), r"would run code \(collections.Counter\)"),
        (pickle.dumps({"a": print}), r"would run code \(builtins.print\)"),
        (pickle.dumps({"a": np.zeros(4)})[:-20], "is damaged, cut off"),
        (RECONSTRUCT + b"}K\x01K\x02sb.", "holds no weights"),
        (RECONSTRUCT + b"\x29R.", "holds no weights"),
        (b"\x80\x02}q\x00K\x01h\x00s.", "recursion"),
        (pickle.dumps([1, 2]), "holds no weights"),
        (b"", "is damaged, cut off or of another format .it is empty"),
        (b"Not a pickle at all\n", "is damaged, cut off"),
        # an array that is shorter than it says
        (pickle.dumps({"a": np.zeros(4, np.float32)}, 2).replace(b"K\x04\x85", b"K\x40\x85"), "array of size 4"),
    ],
)
def test_what_a_pickle_of_arrays_may_not_hold(tmp_path, content, match):
    file = tmp_path / "model.pkl"
    file.write_bytes(content)
    with pytest.raises(UserError, match=match):
        read_pickle(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {"another.weight": torch.zeros(3)}}, "another model's: none of them has the name and the shape"),
        ({"model": {}}, "holds no weights but a dict of model; give a state dict, bare or under 'model'"),
        ({"state_dict": {"model": {"v": torch.ones(1), "w": "text"}}}, "holds no weights but a dict of state_dict"),
    ],
)
def test_files_without_weights(save, content, words):
    with pytest.raises(UserError, match=words):
        SafeCheckpointer(nn.Linear(2, 1)).load(save(content))


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


WRAPPINGS = {
    "bare": lambda tensors: tensors,
    "training checkpoint": lambda tensors: {"model": tensors, "optimizer": {"state": {}}, "iteration": 3},
    "data-parallel": lambda tensors: {"model": prefixed(tensors, "module.")},
    "compiled, in a state_dict": lambda tensors: {"state_dict": prefixed(tensors, "_orig_mod."), "epoch": 3},
    "compiled in part": lambda tensors: {name.replace("0.", "0._orig_mod."): t for name, t in tensors.items()},
    "both, in either order": lambda tensors: prefixed(tensors, "module._orig_mod.module."),
    "Lightning": lambda tensors: {"state_dict": prefixed(tensors, "model."), "loops": {}},
    "NumPy": lambda tensors: {"model": {name: t.numpy() for name, t in tensors.items()}, "AP": np.float64(0.5)},
    "averaged, beside the optimizer": lambda tensors: {"ema_state": tensors, "iteration": 3},
    "averaged, with its own state": lambda tensors: {"ema": {"decay": 0.99, "module": tensors}},
    "torch's AveragedModel": lambda tensors: {"model": {"n_averaged": torch.tensor(5), **prefixed(tensors, "module.")}},
    "averaged, prefixed": lambda tensors: {"model": prefixed(tensors, "model_ema.module.")},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(save, wrapping):
    """Both for a model that is there and for a converter, which has none."""
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    tensors = {name: torch.randn_like(t.float()).to(t.dtype) for name, t in model.state_dict().items()}
    file = save(WRAPPINGS[wrapping](tensors))
    checkpointer = SafeCheckpointer(model)
    checkpointer.must_fit = True
    checkpointer.load(file)
    found, dropped = find_weights(read_checkpoint(file), file)
    assert model.state_dict().keys() == found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(model.state_dict()[name], tensor) and torch.equal(found[name], tensor)
    assert [name for names in dropped.values() for name in names] == ["n_averaged"] * ("torch's" in wrapping)


def test_a_model_with_a_part_called_model_keeps_its_names(save):
    model = nn.ModuleDict({"model": nn.Linear(2, 1)})
    expected = model["model"].weight.detach() + 1
    SafeCheckpointer(model).load(save({"model": {name: t + 1 for name, t in model.state_dict().items()}}))
    assert torch.equal(model["model"].weight, expected)


@pytest.mark.parametrize("where", ["wrapper", "prefix"])
def test_averaged_weights_come_before_plain_ones(where):
    plain = {"a.weight": torch.zeros(2), "a.running_mean": torch.full((2,), 7.0)}
    average = {"a.weight": torch.ones(2)}
    if where == "wrapper":
        content = {"model": plain, "model_ema": average}
    else:
        content = {"model": {**prefixed(average, "ema."), **prefixed(plain, "model.")}}
    loaded, dropped = find_weights(content, "x.pth", model_names=plain)
    assert loaded["a.weight"].tolist() == [1, 1]
    # averaging often leaves buffers to the plain model
    assert loaded["a.running_mean"].tolist() == [7, 7]
    assert dropped == {PLAIN_WEIGHTS: ["a.weight"]}


def test_two_models_in_one_file_are_refused():
    with pytest.raises(UserError, match="x.pth holds two tensors a.weight; save one model alone"):
        find_weights({"module.a.weight": torch.zeros(2), "a.weight": torch.ones(2)}, "x.pth")


def test_safetensors(tmp_path):
    model = nn.Linear(2, 1)
    tensors = {"weight": torch.tensor([[1.5, 2.0]]).half(), "bias": torch.tensor([3.0])}
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    SafeCheckpointer(model).load(str(file))
    assert model.weight.tolist() == [[1.5, 2.0]] and model.bias.tolist() == [3.0]
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match="model.safetensors: it is damaged, cut off"):
        SafeCheckpointer(model).load(str(file))


def test_caffe2_files(tmp_path):
    """Where Caffe2 keeps its weights, and what it keeps beside them."""
    file, arrays = tmp_path / "model.pkl", {"conv1_w": np.ones(2, np.float32), "conv1_w_momentum": np.ones(2)}
    for stored in (arrays, {"blobs": arrays}):
        file.write_bytes(pickle.dumps(stored, 2))
        content = read_pickle(file)
        assert content["model"].keys() == {"conv1_w"} and content["__author__"] == "Caffe2"


def test_a_checkpoint_that_cannot_be_had(tmp_path):
    with pytest.raises(UserError, match="cannot load the weights file://nowhere/model.pth"):
        SafeCheckpointer(nn.Linear(1, 1)).load("file://nowhere/model.pth")
    with pytest.raises(UserError, match="No such file or directory; check the path"):
        read_checkpoint(str(tmp_path / "absent.pth"))
