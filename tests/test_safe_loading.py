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
from querypose.safe_loading import SafeCheckpointer, find_weights, read_checkpoint

ARRAYS = {
    "column_order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.array([0.5, -2.0], np.float16),
    "integer": np.array([[-1], [2**40]]),
    "big_endian": np.array([1.5, 3.0], ">f4"),
    "flag": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
    "no_dimension": np.array(7.25),
}


def read_pickle(file, content):
    file.write_bytes(content)
    return SafeCheckpointer(nn.Linear(1, 1))._load_file(str(file))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_are_read_as_they_were_written(tmp_path, protocol):
    content = {"model": ARRAYS, "__author__": "somebody", "scalar": np.float64(0.125), "list": [1, (2.5, None)]}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_checkpoint(str(tmp_path / "model.pkl"))
    for name, array in ARRAYS.items():
        assert found["model"][name].dtype == array.dtype.newbyteorder("="), name
        assert found["model"][name].flags.writeable
        np.testing.assert_array_equal(found["model"][name], array)
    assert (found["__author__"], found["scalar"], found["list"]) == ("somebody", 0.125, [1, (2.5, None)])


def test_a_file_of_the_model_zoo_written_by_python_2_is_read(tmp_path):
    # text where Python 3 has bytes: how Detectron2's own R-50.pkl keeps its arrays
    content = (
        b"\x80\x02}q\x01U\x05modelq\x02}q\x03U\x01wq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\xc0\x3f\x00\x00\x80\xc0tbssU\n__author__U\x0btorchvisions."
    )
    assert pickle.loads(content, encoding="latin1")["model"]["w"].tolist() == [1.5, -4.0], "a true pickle"
    found = read_pickle(tmp_path / "R-50.pkl", content)
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


def test_caffe2_files(tmp_path):
    """Where Caffe2 keeps its weights, and what it keeps beside them."""
    arrays = {"conv1_w": np.ones(2, np.float32), "conv1_w_momentum": np.ones(2)}
    for stored in (arrays, {"blobs": arrays}):
        content = read_pickle(tmp_path / "model.pkl", pickle.dumps(stored, 2))
        assert content["model"]["conv1_w"].tolist() == [1, 1] and content["__author__"] == "Caffe2"


WRITERS = {
    "zip": torch.save,
    "legacy": lambda content, file: torch.save(content, file, _use_new_zipfile_serialization=False),
    "pickle": lambda content, file: file.write_bytes(pickle.dumps(content["extra"], 2)),
}
READERS = {
    "load": lambda file: PoseCheckpointer(nn.Linear(2, 1)).load(file),
    "resume": lambda file: PoseCheckpointer(nn.Linear(2, 1), os.path.dirname(file)).resume_or_load("", resume=True),
    "inference": lambda file: load_weights(nn.Linear(2, 1), file),
    "converters": lambda file: find_weights(read_checkpoint(file), file),
}


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize("kind", WRITERS)
def test_no_code_is_run(tmp_path, suffix, kind):
    file, marker = tmp_path / f"model_final{suffix}", tmp_path / "run"
    WRITERS[kind]({"model": {"w": torch.zeros(2)}, "extra": Code(marker)}, file)
    (tmp_path / "last_checkpoint").write_text(file.name)
    for reader, read in READERS.items():
        if (reader, suffix) == ("resume", ".pkl"):
            continue
        with pytest.raises(UserError) as error:
            read(str(file))
        # --resume skips damaged checkpoints, and then names the folder
        named = tmp_path if reader == "resume" else file
        assert not marker.exists() and "\n" not in str(error.value) and str(named) in str(error.value)
        if kind == "pickle" and suffix == ".pkl":
            assert "loading it would run code (posix.mkdir)" in str(error.value)
    if kind != "pickle":  # the file is hostile
        torch.load(file, weights_only=False)
        assert marker.is_dir()


RECONSTRUCT = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (pickle.dumps({"a": np.zeros(2, "f4,O")}), "is damaged, cut off"),
        (pickle.dumps({"a": collections.Counter("aa")}), r"would run code \(collections.Counter\)"),
        (pickle.dumps({"a": np.zeros(4)})[:-20], "is damaged, cut off"),
        (RECONSTRUCT + b"}K\x01K\x02sb.", "holds no weights"),
        (RECONSTRUCT + b"\x29R.", "holds no weights"),
        (b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.", "maximum recursion depth"),
        (b"", "is damaged, cut off or of another format .it begins with b''"),
        # an array that is shorter than it says
        (pickle.dumps({"a": np.zeros(4, np.float32)}, 2).replace(b"K\x04\x85", b"K\x40\x85"), "is damaged, cut off"),
    ],
)
def test_what_a_pickle_of_arrays_may_not_hold(tmp_path, content, match):
    with pytest.raises(UserError, match=match):
        (tmp_path / "model.pkl").write_bytes(content)
        SafeCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / "model.pkl"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {"another.weight": torch.zeros(3)}}, "another model's: none of them has the name and the shape"),
        ({"state_dict": {"model": {"v": torch.ones(1), "w": "text"}}}, "holds no weights by name; give a state dict"),
        ({"model": {"w": torch.zeros(2)}, "a": argparse.Namespace(lr=1)}, r"would run code \(argparse.Namespace\); wh"),
        ({"module.a": torch.zeros(2), "a": torch.ones(2)}, "holds two tensors a; save one model alone"),
    ],
)
def test_files_without_weights(save, content, words):
    with pytest.raises(UserError, match=words):
        SafeCheckpointer(nn.Linear(2, 1)).load(save(content))


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


WRAPPINGS = {
    "training checkpoint": lambda tensors: {"model": tensors, "optimizer": {"state": {}}, "iteration": 3},
    "data-parallel": lambda tensors: {"model": prefixed(tensors, "module.")},
    "compiled in part": lambda tensors: {name.replace("0.", "0._orig_mod."): t for name, t in tensors.items()},
    "both, in either order": lambda tensors: prefixed(tensors, "module._orig_mod.module."),
    "Lightning": lambda tensors: {"state_dict": prefixed(tensors, "model."), "loops": {}},
    "NumPy": lambda tensors: {"model": {name: t.numpy() for name, t in tensors.items()}, "AP": np.float64(0.5)},
    "averaged, beside the optimizer": lambda tensors: {"ema_state": tensors, "iteration": 3},
    "averaged, with its own state": lambda tensors: {"ema": {"decay": 0.99, "module": tensors}},
    "torch's AveragedModel": lambda tensors: {"model": {"n_averaged": torch.tensor(5), **prefixed(tensors, "module.")}},
    "with a decay": lambda tensors: {"ema": {"decay": torch.tensor(0.9), "num_updates": torch.tensor(5), **tensors}},
    "in three wrappers": lambda tensors: {"model": {"state_dict": {"model": tensors}}, "epoch": 3},
    "averaged, prefixed": lambda tensors: {"model": prefixed(tensors, "model_ema.module.")},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(save, wrapping):
    """Both for a model that is there and for a converter, which has none."""
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    tensors = {name: torch.randn_like(t.float()).to(t.dtype) for name, t in model.state_dict().items()}
    file = save(WRAPPINGS[wrapping](tensors))
    load_weights(model, file)
    found = find_weights(read_checkpoint(file), file)
    assert model.state_dict().keys() == found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(model.state_dict()[name], tensor) and torch.equal(found[name], tensor)


def test_a_model_with_a_part_called_model_keeps_its_names(save):
    model = nn.ModuleDict({"model": nn.Linear(2, 1)})
    expected = model["model"].weight.detach() + 1
    SafeCheckpointer(model).load(save({"model": {name: t + 1 for name, t in model.state_dict().items()}}))
    assert torch.equal(model["model"].weight, expected)


def test_averaged_weights_come_before_plain_ones():
    plain = {"a.weight": torch.zeros(2), "a.running_mean": torch.full((2,), 7.0)}
    average = {"a.weight": torch.ones(2)}
    loaded = find_weights({"model": plain, "model_ema": average}, "x.pth", model_names=plain)
    # averaging often leaves buffers to the plain model
    assert loaded["a.weight"].tolist() == [1, 1] and loaded["a.running_mean"].tolist() == [7, 7]


def test_safetensors_and_files_that_cannot_be_had(tmp_path):
    model, file = nn.Linear(2, 1), tmp_path / "model.safetensors"
    save_file({"weight": torch.tensor([[1.5, 2.0]]).half(), "bias": torch.tensor([3.0])}, file)
    SafeCheckpointer(model).load(str(file))
    assert model.weight.tolist() == [[1.5, 2.0]] and model.bias.tolist() == [3.0]
    file.write_bytes(file.read_bytes()[:-3])
    for path, words in (
        (str(file), "model.safetensors: it is damaged, cut off"),
        ("file://nowhere/model.pth", "cannot load the weights file://nowhere/model.pth"),
        (str(tmp_path / "absent.safetensors"), "absent.safetensors"),
    ):
        with pytest.raises(UserError, match=words):
            SafeCheckpointer(model).load(path)
    with pytest.raises(UserError, match="No such file or directory; check the path"):
        read_checkpoint(str(tmp_path / "absent.pth"))
