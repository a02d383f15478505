"""Every invalid input of a user, from bad_inputs.py: one sentence, exit code 2, no traceback, nothing overwritten."""

import io
import json

import bad_inputs
import pytest
import torch
from bad_inputs import annotations
from detectron2.modeling import build_model
from refusals import ROOT, listed, tool

from querypose.errors import UserError, exit_on_user_error
from querypose.image_io import read_image_rgb
from querypose.onnx import OnnxPosePredictor
from querypose.setup_config import setup_config

CONFIG = ("--config-file", "config.yaml")


@pytest.mark.parametrize(("command", "words"), listed(bad_inputs.FLAGS))
def test_flags(refused, monkeypatch, command, words):
    monkeypatch.setenv("DETECTRON2_DATASETS", "datasets")
    refused(tool(*command.split()), words)


def test_every_tool_is_in_the_table():
    names = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"detectron2_patches"}
    assert names <= {command.split()[0] for command, _ in bad_inputs.FLAGS}


@pytest.mark.parametrize(("overrides", "words"), listed(bad_inputs.CONFIG_OVERRIDES))
def test_config_overrides(refused, overrides, words):
    refused(tool("train_net", *CONFIG, *overrides), words)


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


@pytest.mark.parametrize(("content", "words"), listed(bad_inputs.CONFIG_FILES.items()))
def test_config_files(refused, workspace, tmp_path, content, words):
    file = write(tmp_path / "broken.yaml", content if isinstance(content, bytes) else content.encode())
    refused(tool("train_net", "--config-file", file), words)
    assert not (workspace / "run").exists(), "code of the file was run"


@pytest.mark.parametrize(("content", "words"), listed(bad_inputs.ANNOTATIONS))
def test_annotations(refused, workspace, tmp_path, content, words):
    file = write(tmp_path / "broken.json", content)
    refused(tool("train_net", *CONFIG, "DATASETS.TRAIN", f"('{file}@{workspace}/images',)"), words)


@pytest.mark.parametrize("content", [b"{", {"images": 3}, annotations(images__file_name="../photo.jpg")])
def test_annotations_of_the_other_tools(refused, workspace, tmp_path, content):
    file = write(tmp_path / "crowdpose_val.json", content)
    (tmp_path / "annotations").mkdir()
    write(tmp_path / "annotations" / "person_keypoints_val2017.json", content)
    out = tmp_path / "prepared"
    for command in (
        tool("evaluate_results", "--dataset", file, "--results", "results.json"),
        tool("check_dataset", f"{file}@{workspace}/images"),
        tool("prepare_crowdpose", "--annotations", file, "--images", "images", "--output", out),
        tool("prepare_minicoco", "--coco", tmp_path, "--output", out),
        tool("overfit", "--dataset", f"{file}@{workspace}/images", "OUTPUT_DIR", out),
    ):
        refused(command, "not valid JSON|not in COCO format|within the image folder")
    assert not out.exists()


@pytest.mark.parametrize(("content", "words"), listed(bad_inputs.RESULTS))
def test_results(refused, tmp_path, content, words):
    file, out = write(tmp_path / "broken.json", content), tmp_path / "metrics.json"
    refused(tool("evaluate_results", "--dataset", "truth.json", "--results", file, "--output", out), words)
    assert not out.exists()


@pytest.mark.parametrize(("name", "content", "words"), listed(bad_inputs.images()))
def test_images(refused, tmp_path, name, content, words):
    file = write(tmp_path / name, content)
    refused(lambda: read_image_rgb(file), f"{name}.*({words})")
    refused(lambda: read_image_rgb(io.BytesIO(content)), words)


def test_images_of_the_tools(refused, tmp_path):
    weights = ("MODEL.WEIGHTS", "model.pth")
    name, content, words = next(bad_inputs.images())
    file = write(tmp_path / name, content)
    for command in ("visualize_attention", "demo"):
        refused(tool(command, *CONFIG, "--input", file, "--output", tmp_path / "o", *weights), words)
    refused(tool("export_onnx", *CONFIG, "--output", tmp_path / "o.onnx", "--compare", file, *weights), words)
    data = write(tmp_path / "truth.json", annotations(images__file_name=name))
    options = ["OUTPUT_DIR", tmp_path / "run", "INPUT.CROP.ENABLED", "False", "SOLVER.IMS_PER_BATCH", 1]
    refused(tool("train_net", *CONFIG, "DATASETS.TRAIN", f"('{data}',)", *options), f"{name} cannot be read")


@pytest.mark.slow
def test_checkpoints(refused, workspace, tmp_path):
    """Training and evaluation meet all files, the other tools, which load weights as the latter, two of them."""
    model = build_model(setup_config(str(workspace / "config.yaml")))
    output = ["--output", tmp_path / "out.onnx"]
    others = [
        ("export_onnx", *output),
        ("web_demo", "--port", 0),
        ("visualize_attention", "--input", "photo.jpg", *output),
        ("demo", "--input", "photo.jpg", *output),
    ]
    for file, words in bad_inputs.checkpoints(tmp_path, model):
        weights = ["MODEL.WEIGHTS", file]
        command = "train_net" if file.suffix == ".pkl" else "test_net"
        refused(tool(command, *CONFIG, *weights, "OUTPUT_DIR", tmp_path / f"output_{file.name}"), words)
        for name, *options in others if file.name in ("code.pth", "shapes.pth") else ():
            refused(tool(name, *CONFIG, *options, *weights), words)
    assert not (tmp_path / "run").exists() and not (workspace / "run").exists(), "code of a checkpoint was run"


@pytest.mark.parametrize("source", ["authors", "hrnet", "swin", "torchvision", "querypose", "backbone"])
def test_conversion(refused, tmp_path, source):
    out = tmp_path / "out.pth"
    code = {"model": {"a": torch.zeros(1)}, "extra": bad_inputs.Code(tmp_path / "run")}
    for content, words in ((code, "would run code"), ([torch.zeros(1)], "holds|lacks|is not|cannot be read")):
        torch.save(content, tmp_path / "theirs.pth")
        refused(tool("convert_weights", "--source", source, tmp_path / "theirs.pth", out), words)
        assert not (tmp_path / "run").exists() and not out.exists()
    for name, words in {"decoder.a": "would hold NaN", "a": "no tensor named decoder"}.items():
        if source == "querypose":  # which writes half precision
            torch.save({"model": {name: torch.full((1,), 1e5)}}, tmp_path / "theirs.pth")
            refused(tool("convert_weights", "--source", source, tmp_path / "theirs.pth", out), words)
    if source in ("authors", "hrnet"):
        names = ("init_proposal_features.weight", "transition1.0.0.weight")
        torch.save({name: torch.ones(()) for name in names}, tmp_path / "theirs.pth")
        refused(tool("convert_weights", "--source", source, tmp_path / "theirs.pth", out), "is damaged: a tensor has a")


@pytest.mark.parametrize(("change", "words"), listed(bad_inputs.ONNX_FILES))
def test_onnx_files(refused, workspace, tmp_path, change, words):
    file = tmp_path / "model.onnx"
    if change is not None:
        file.write_bytes(change if isinstance(change, bytes) else bad_inputs.onnx_model(**change))
    refused(lambda: OnnxPosePredictor(file)(workspace / "photo.jpg"), words)


def test_names_in_messages_cannot_steer_the_terminal(capsys):
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError("there is no image a\nerror: b\x1b[2J\r.jpg")
    assert capsys.readouterr().err == "error: there is no image a error: b [2J .jpg\n"
