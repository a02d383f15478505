"""Every invalid input of a user: one sentence that names it, exit code 2, no traceback, nothing overwritten.

The malformed inputs are in bad_inputs.py, wrong command lines in test_bad_flags.py.
"""

import io
import json

import bad_inputs
import pytest
import torch
from detectron2.modeling import build_model
from evaluation_data import one_person
from refusals import listed, tool

from querypose.errors import UserError, exit_on_user_error
from querypose.image_io import open_image, pil_to_rgb, read_image_rgb
from querypose.onnx import OnnxPosePredictor
from querypose.setup_config import setup_config


@pytest.mark.parametrize(("overrides", "words"), listed(bad_inputs.CONFIG_OVERRIDES))
def test_config_overrides(refused, overrides, words):
    refused(tool("train_net", "--config-file", "config.yaml", *overrides), words)


@pytest.mark.parametrize(("content", "words"), listed(bad_inputs.CONFIG_FILES.items()))
def test_config_files(refused, workspace, tmp_path, content, words):
    file = tmp_path / "broken.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(tool("train_net", "--config-file", file), words)
    assert not (workspace / "run").exists(), "code of the file was run"


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


@pytest.mark.parametrize(("content", "words"), listed(bad_inputs.annotations()))
def test_annotations(refused, workspace, tmp_path, content, words):
    file = write(tmp_path / "broken.json", content)
    data = f"('{file}@{workspace}/images',)"
    refused(tool("train_net", "--config-file", "config.yaml", "DATASETS.TRAIN", data), words)


def test_annotations_of_the_other_tools(refused, workspace, tmp_path):
    escaping = one_person()[0]
    escaping["images"][0]["file_name"] = "../photo.jpg"
    (tmp_path / "annotations").mkdir()
    for number, content in enumerate([b"{", {"images": 3}, escaping]):
        file = write(tmp_path / f"crowdpose_val{number}.json", content)
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


@pytest.mark.parametrize(("content", "words"), listed(bad_inputs.results()))
def test_results(refused, tmp_path, content, words):
    file = write(tmp_path / "broken.json", content)
    arguments = ["--dataset", "truth.json", "--results", file, "--output", tmp_path / "metrics.json"]
    refused(tool("evaluate_results", *arguments), words)
    assert not (tmp_path / "metrics.json").exists()


def read_from_memory(path):
    with open_image(io.BytesIO(path.read_bytes())) as image:
        pil_to_rgb(image)


@pytest.mark.parametrize(("name", "content", "words"), listed(bad_inputs.images()))
def test_images(refused, tmp_path, name, content, words):
    file = tmp_path / name
    file.write_bytes(content)
    refused(lambda: read_image_rgb(file), f"{name}.*({words})")
    refused(lambda: read_from_memory(file), words)


def test_images_of_the_tools(refused, tmp_path):
    config, weights, output = (
        ["--config-file", "config.yaml"],
        ["MODEL.WEIGHTS", "model.pth"],
        ["--output", tmp_path / "o"],
    )
    for name, content, words in bad_inputs.images():
        if name in ("text.jpg", "large.png"):
            file = tmp_path / name
            file.write_bytes(content)
            for command in ("visualize_attention", "demo"):
                refused(tool(command, *config, "--input", file, *output, *weights), words)
            refused(tool("export_onnx", *config, "--output", tmp_path / "o.onnx", "--compare", file, *weights), words)
    annotations = one_person()[0]
    annotations["images"][0]["file_name"] = "text.jpg"
    file = write(tmp_path / "truth.json", annotations)
    data = ["DATASETS.TRAIN", f"('{file}',)", "OUTPUT_DIR", tmp_path / "run", "INPUT.CROP.ENABLED", "False"]
    refused(tool("train_net", *config, *data, "SOLVER.IMS_PER_BATCH", 1), "text.jpg cannot be read")


@pytest.mark.slow
def test_checkpoints(refused, workspace, tmp_path):
    """Those with code would make the folder `run`."""
    model = build_model(setup_config(str(workspace / "config.yaml")))
    config = ["--config-file", "config.yaml"]
    for number, (file, words) in enumerate(bad_inputs.checkpoints(tmp_path, model)):
        weights = ["MODEL.WEIGHTS", file]
        runs = ["OUTPUT_DIR", tmp_path / f"run{number}"]
        commands = [
            tool("test_net", *config, *weights, *runs),
            tool("export_onnx", *config, "--output", tmp_path / "model.onnx", *weights),
            tool("web_demo", *config, "--port", 0, *weights),
            tool("visualize_attention", *config, "--input", "photo.jpg", "--output", tmp_path / "out", *weights),
            tool("demo", *config, "--input", "photo.jpg", "--output", tmp_path / "out", *weights),
        ]
        # a whole run for each is too much: every tool meets a third of the files, and every file the evaluation
        for command in [commands[0], *commands[1 + number % 2 :: 2]]:
            refused(command, words)
        if file.name not in ("shapes.pth", "half.pth"):
            sources = ("authors", "hrnet", "swin", "torchvision", "querypose")
            out = tmp_path / "converted.pth"
            refused(tool("convert_weights", "--source", sources[number % 5], file, out), words + "|is not|holds|lacks")
            assert not out.exists()
    assert not (tmp_path / "run").exists(), "code of a checkpoint was run"


@pytest.mark.parametrize("source", ["authors", "hrnet", "swin", "torchvision", "querypose", "backbone"])
def test_conversion_runs_no_code(refused, tmp_path, source):
    torch.save({"model": {"a": torch.zeros(1)}, "extra": bad_inputs.Code(tmp_path / "run")}, tmp_path / "code.pth")
    refused(tool("convert_weights", "--source", source, tmp_path / "code.pth", tmp_path / "out.pth"), "would run code")
    assert not (tmp_path / "run").exists() and not (tmp_path / "out.pth").exists()


def test_training_from_weights_that_cannot_be(refused, tmp_path):
    for name, content, words in (
        ("text.pth", b"text", "text.pth: it is damaged"),
        ("text.pkl", b"text", "text.pkl: it is damaged"),
        ("code.pkl", b"cos\nmkdir\n(S'run'\ntR.", r"would run code \(os.mkdir\)"),
        ("number.pkl", b"\x80\x02K\x01.", "holds no weights"),
    ):
        (tmp_path / name).write_bytes(content)
        runs = ["MODEL.WEIGHTS", tmp_path / name, "OUTPUT_DIR", tmp_path / f"run_{name}"]
        refused(tool("train_net", "--config-file", "config.yaml", *runs), words)


def onnx_files(folder):
    """(path, words)."""
    from onnx import TensorProto, helper

    def model(outputs=("boxes", "scores", "keypoints"), inputs="images", **metadata):
        nodes = [helper.make_node("Identity", [inputs], [name]) for name in outputs]
        image = helper.make_tensor_value_info(inputs, TensorProto.FLOAT, [1, 3, "h", "w"])
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(nodes, "graph", [image], values)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(made, metadata)
        return made.SerializeToString()

    skeleton = {"keypoint_names": ["a", "b"], "flip_pairs": [["a", "b"]], "limbs": [[0, 1]], "sigmas": [0.1, 0.1]}
    sizes = {"min_size": 64, "max_size": 96, "channel_order": "RGB"}
    good = {"format": 1, "skeleton": skeleton, "preprocessing": sizes}

    def described(**changes):
        return model(querypose=json.dumps({**good, **changes}))

    cases = [
        ("empty", b"", "no ONNX file"),
        ("cut", described()[:150], "no ONNX file|is not an export"),
        ("no_metadata", model(), "is not an export"),
        ("words", model(querypose="words"), "is not an export"),
        ("format", described(format=2), "format is 2"),
        ("no_skeleton", described(skeleton=None), "is not an export"),
        ("sigmas", described(skeleton={**skeleton, "sigmas": [1]}), "sigmas"),
        ("limbs", described(skeleton={**skeleton, "limbs": [["a"]]}), "limb|not an export"),
        ("sizes", described(preprocessing={**sizes, "min_size": "x"}), "_size is"),
        ("size", described(preprocessing={**sizes, "max_size": 10**9}), "_size is"),
        ("order", described(preprocessing={**sizes, "channel_order": "HSV"}), "HSV"),
        ("outputs", model(("pose",), querypose=json.dumps(good)), "outputs|boxes"),
        ("inputs", model(inputs="x", querypose=json.dumps(good)), "inputs|images"),
        ("shapes", described(), "keypoints|boxes|shape"),
    ]
    for name, content, words in cases:
        (folder / f"{name}.onnx").write_bytes(content)
        yield folder / f"{name}.onnx", words
    yield folder / "absent.onnx", "no ONNX file"
    yield folder, "no ONNX file"


def test_onnx_files(refused, workspace, tmp_path):
    for file, words in onnx_files(tmp_path):
        refused(lambda file=file: OnnxPosePredictor(file)(workspace / "photo.jpg"), words)


def test_names_in_messages_cannot_steer_the_terminal(capsys):
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError("there is no image a\nerror: b\x1b[2J\r.jpg")
    assert capsys.readouterr().err == "error: there is no image a error: b [2J .jpg\n"
