"""Checkpoints of unknown origin: honest ones are read to the last number, and no code in the others is run."""

import argparse
import collections
import os
import pickle

import numpy as np
import pytest
import torch
from tiny_model import tiny_model
from torch import nn

from querypose.engine.checkpointer import PoseCheckpointer
from querypose.errors import UserError
from querypose.predictor import load_weights
from querypose.safe_loading import SafeCheckpointer, load_tensor_file


def read_pickle(file):
    return SafeCheckpointer(nn.Linear(1, 1))._load_file(str(file))


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


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
    assert (found["__author__"], found["scalar"], found["list"]) == ("somebody", 0.125, [1, [2.5, None]])


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


def resnet_pickle(model, file):
    """Detectron2's own format of pretrained backbones: names without the model's prefix, to be matched by suffix."""
    state = {
        name.removeprefix("backbone.bottom_up."): tensor.numpy() + 1
        for name, tensor in model.state_dict().items()
        if name.startswith("backbone.bottom_up.") and tensor.is_floating_point()
    }
    file.write_bytes(pickle.dumps({"model": state, "__author__": "torchvision", "matching_heuristics": True}, 2))
    return state


def test_a_pickled_backbone_fills_the_backbone(tmp_path):
    model = tiny_model()
    state = resnet_pickle(model, tmp_path / "resnet.pkl")
    PoseCheckpointer(model).load(str(tmp_path / "resnet.pkl"))
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
    "PoseCheckpointer": lambda file: PoseCheckpointer(tiny_model()).load(file),
    "resume": lambda file: PoseCheckpointer(tiny_model(), os.path.dirname(file)).resume_or_load("", resume=True),
    "load_weights": lambda file: load_weights(tiny_model(), file),
    "load_tensor_file": load_tensor_file,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pyth"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "state", "pickle"])
def test_no_code_is_run(tmp_path, reader, suffix, kind):
    file, marker = tmp_path / f"model{suffix}", tmp_path / "run"
    hostile(kind, marker, file)
    (tmp_path / "last_checkpoint").write_text(file.name)
    with pytest.raises(UserError) as error:
        READERS[reader](str(file))
    # what is no whole checkpoint, --resume passes over, and then names the folder
    named = tmp_path if reader == "resume" else file
    assert not marker.exists() and "\n" not in str(error.value) and str(named) in str(error.value)
    if kind == "pickle" and suffix == ".pkl" and reader in ("PoseCheckpointer", "load_weights"):
        assert "loading it would run code (posix.mkdir)" in str(error.value)


def test_a_file_with_an_object_names_its_class(tmp_path):
    torch.save({"model": {"w": torch.zeros(2)}, "arguments": argparse.Namespace(lr=1)}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"loading it would run code \(argparse.Namespace\)"):
        load_tensor_file(str(tmp_path / "model.pth"))


def test_the_hostile_files_are_hostile(tmp_path):
    for number, kind in enumerate(("zip", "legacy", "state")):
        hostile(kind, tmp_path / f"run{number}", tmp_path / "file")
        torch.load(tmp_path / "file", weights_only=False)
        assert (tmp_path / f"run{number}").is_dir()


def raw(*opcodes):
    return b"\x80\x02" + b"".join(opcodes) + b"."


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (pickle.dumps({"a": np.array([{}], object)}), "something else than numbers"),
        (pickle.dumps({"a": np.zeros(2, "f4,O")}), "something else than numbers"),
        (pickle.dumps({"a": np.array(["text"])}), "something else than numbers"),
        (pickle.dumps({"a": np.datetime64("2020")}), "something else than numbers"),
        (pickle.dumps({"a": collections.Counter("aa")}), r"would run code \(collections.Counter\)"),
        (pickle.dumps({"a": print}), r"would run code \(builtins.print\)"),
        (pickle.dumps({"a": np.zeros(4)})[:-20], "damaged or no pickle"),
        (raw(RECONSTRUCT, b"}K\x01K\x02sb"), "it changes what it calls"),
        (raw(b"ccollections\nOrderedDict\n", b"N}K\x01K\x02s\x86b"), "it changes what it calls"),
        (raw(RECONSTRUCT, b"\x29R"), "an array without its numbers"),
        (raw(b"}q\x00K\x01h\x00s"), "nested too deeply"),
        (pickle.dumps([1, 2]), "holds no weights"),
        (b"", "damaged or no pickle"),
        (b"Not a pickle at all\n", "damaged or no pickle"),
    ],
)
def test_what_a_pickle_of_arrays_may_not_hold(tmp_path, content, match):
    file = tmp_path / "model.pkl"
    file.write_bytes(content)
    with pytest.raises(UserError, match=match):
        read_pickle(file)


def test_an_array_that_is_shorter_than_it_says(tmp_path):
    content = pickle.dumps({"a": np.zeros(4, np.float32)}, 2)
    assert content.count(b"K\x04\x85") == 1, "its shape"
    (tmp_path / "model.pkl").write_bytes(content.replace(b"K\x04\x85", b"K\x40\x85"))
    with pytest.raises(UserError, match="cannot reshape array of size 4"):
        read_pickle(tmp_path / "model.pkl")


def test_weights_of_nothing_in_the_model_are_refused(tmp_path):
    torch.save({"model": {"another.weight": torch.zeros(3)}}, tmp_path / "model.pth")
    with pytest.raises(UserError, match="another model's: none of them has the name and the shape"):
        PoseCheckpointer(tiny_model()).load(str(tmp_path / "model.pth"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"model": {}}, "holds no weights"),
        ([torch.zeros(1)], "holds no weights"),
        ({"model": {"w": "text"}}, "holds str under 'w'"),
        ({"epoch": 3, "weights": {}}, "holds int under 'epoch'"),
    ],
)
def test_files_without_weights(tmp_path, content, match):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(UserError, match=match):
        SafeCheckpointer(tiny_model()).load(str(tmp_path / "model.pth"))


def test_files_of_other_programs(tmp_path):
    """pycls' .pyth and Caffe2's .pkl: where they keep their weights, and what they keep beside them."""
    file = tmp_path / "model.pyth"
    torch.save({"epoch": 3, "model_state": {"w": torch.ones(2), "bn.num_batches_tracked": torch.tensor(7)}}, file)
    content = SafeCheckpointer(nn.Linear(1, 1))._load_file(str(file))
    assert content["model"].keys() == {"w"} and content["__author__"] == "pycls" and content["matching_heuristics"]
    torch.save({"epoch": 3}, file)
    with pytest.raises(UserError, match="holds no weights"):
        SafeCheckpointer(nn.Linear(1, 1))._load_file(str(file))

    file, arrays = tmp_path / "model.pkl", {"conv1_w": np.ones(2, np.float32), "conv1_w_momentum": np.ones(2)}
    for stored in (arrays, {"blobs": arrays}):
        file.write_bytes(pickle.dumps(stored, 2))
        content = read_pickle(file)
        assert content["model"].keys() == {"conv1_w"} and content["__author__"] == "Caffe2"


def test_a_checkpoint_that_cannot_be_had(tmp_path):
    with pytest.raises(UserError, match="cannot load the weights file://nowhere/model.pth"):
        SafeCheckpointer(nn.Linear(1, 1)).load("file://nowhere/model.pth")
    with pytest.raises(UserError, match="does not exist; check the path"):
        load_tensor_file(str(tmp_path / "absent.pth"))
