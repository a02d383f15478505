"""Whatever is wrong with what a user gives: one sentence that names it, exit code 2, no traceback, nothing overwritten.

The malformed inputs are in bad_inputs.py. Tools run in this process, as starting Python and PyTorch for each would take
seconds; a few run as users start them.
"""

import hashlib
import io
import json
import logging
import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import bad_inputs
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger
from evaluation_data import one_person
from PIL import Image
from tiny_model import tiny_config

from querypose.errors import UserError, exit_on_user_error
from querypose.image_io import open_image, pil_to_rgb, read_image_rgb
from querypose.onnx import OnnxPosePredictor
from querypose.safe_loading import read_checkpoint
from querypose.setup_config import setup_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def workspace():
    """A folder with everything that tools need, whole: a config, weights, annotations, results, an image."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        content, results = one_person()
        Image.new("RGB", (500, 500)).save(folder / "images" / "1.jpg")
        Image.new("RGB", (96, 64)).save(folder / "photo.jpg")
        (folder / "truth.json").write_text(json.dumps(content))
        (folder / "results.json").write_text(json.dumps(results))
        cfg = tiny_config("light", "DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", ())
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (f"{folder}/truth.json@{folder}/images",)
        cfg.OUTPUT_DIR = str(folder / "output")
        (folder / "config.yaml").write_text(cfg.dump())
        torch.save({"model": build_model(setup_config(str(folder / "config.yaml"))).state_dict()}, folder / "model.pth")
        yield folder


@pytest.fixture
def refused(workspace, monkeypatch, capsys):
    """refused(function, words): it ends as a user's mistake should, with these words in its sentence."""

    def contents(folder):
        files = [path for path in folder.rglob("*") if path.is_file() and "output" not in path.parts]
        return {path: hashlib.sha256(path.read_bytes()).digest() for path in files}

    def check(function, words):
        before = contents(workspace)
        with pytest.raises(SystemExit) as caught, exit_on_user_error():
            function()
        printed = capsys.readouterr()
        assert caught.value.code == 2, printed.err
        assert "Traceback" not in printed.err + printed.out
        lines = [line for line in printed.err.splitlines() if re.match(r"(\S+\.py: )?error: ", line)]
        assert len(lines) == 1, printed.err
        assert lines[0] == printed.err.splitlines()[-1], "the last that a user reads"
        assert re.search(words, lines[0]), lines[0]
        assert len(lines[0].partition("error: ")[2].split()) >= 3, "a sentence"
        assert contents(workspace) == before, "files were changed or written"

    monkeypatch.chdir(workspace)
    return check


def tool(name, *arguments):
    """A function that runs tools/<name>.py as a command would."""

    def run():
        path = str(ROOT / "tools" / f"{name}.py")
        before, sys.argv = sys.argv, [path, *map(str, arguments)]
        sys.path.insert(0, str(ROOT / "tools"))
        try:
            runpy.run_path(path, run_name="__main__")
        finally:
            sys.argv = before
            sys.path.remove(str(ROOT / "tools"))
            # handlers that write to this test's captured output, which the next one's tools would find closed
            for logger in ("", "detectron2", "fvcore", "querypose"):
                for handler in list(logging.getLogger(logger).handlers):
                    if isinstance(handler, logging.StreamHandler) and "pytest" not in type(handler).__module__:
                        logging.getLogger(logger).removeHandler(handler)
            setup_logger.cache_clear()

    return run


def listed(entries):
    """Parameters with short names of their own."""
    entries = list(entries)
    return [pytest.param(*entry, id=str(number)) for number, entry in enumerate(entries)]


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
    for number, content in enumerate([b"{", [], {"images": 3}, escaping]):
        file = write(tmp_path / f"crowdpose_val{number}.json", content)
        words = "not valid JSON|not in COCO format|within the image folder"
        refused(tool("evaluate_results", "--dataset", file, "--results", "results.json"), words)
        refused(tool("check_dataset", f"{file}@{workspace}/images"), words)
        out = tmp_path / "prepared"
        refused(tool("prepare_crowdpose", "--annotations", file, "--images", "images", "--output", out), words)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        write(tmp_path / "annotations" / "person_keypoints_val2017.json", content)
        refused(tool("prepare_minicoco", "--coco", tmp_path, "--output", tmp_path / "mini"), words)
        refused(tool("overfit", "--dataset", f"{file}@{workspace}/images", "OUTPUT_DIR", tmp_path / "o"), words)
    assert not (tmp_path / "mini").exists() and not (tmp_path / "prepared").exists()


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


def test_images_of_the_tools(refused, workspace, tmp_path):
    for name, content, words in bad_inputs.images():
        if name in ("text.jpg", "large.png"):
            (tmp_path / name).write_bytes(content)
            config = ["--config-file", "config.yaml"]
            weights = ["MODEL.WEIGHTS", "model.pth"]
            output = ["--output", tmp_path / "out"]
            refused(tool("visualize_attention", *config, "--input", tmp_path / name, *output, *weights), words)
            export = ["--output", tmp_path / "out.onnx", "--compare", tmp_path / name]
            refused(tool("export_onnx", *config, *export, *weights), words)
            refused(tool("demo", *config, "--input", tmp_path / name, *output, *weights), words)
    annotations = one_person()[0]
    annotations["images"][0]["file_name"] = "text.jpg"
    file = write(tmp_path / "truth.json", annotations)
    data = ["DATASETS.TRAIN", f"('{file}',)", "OUTPUT_DIR", tmp_path / "run", "INPUT.CROP.ENABLED", "False"]
    refused(
        tool("train_net", "--config-file", "config.yaml", *data, "SOLVER.IMS_PER_BATCH", 1), "text.jpg cannot be read"
    )


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


@pytest.mark.parametrize("source", ["authors", "hrnet", "swin", "torchvision", "querypose"])
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
    import onnx
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
    good = {
        "format": 1,
        "skeleton": skeleton,
        "preprocessing": {"min_size": 64, "max_size": 96, "channel_order": "RGB"},
    }

    def described(**changes):
        return model(querypose=json.dumps({**good, **changes}))

    whole = described()
    assert onnx.load_from_string(whole)
    cases = [
        ("empty", b"", "no ONNX file"),
        ("text", b"no model", "no ONNX file"),
        ("cut", whole[:150], "no ONNX file|is no export"),
        ("no_metadata", model(), "no export of QueryPose"),
        ("words", model(querypose="words"), "is no export"),
        ("list", model(querypose="[]"), "is no export"),
        ("number", model(querypose="3"), "is no export"),
        ("no_format", model(querypose="{}"), "is no export"),
        ("deep", model(querypose="[" * 100_000), "is no export"),
        ("format", described(format=2), "format is 2"),
        ("no_skeleton", described(skeleton=None), "is no export"),
        ("sigmas", described(skeleton={**skeleton, "sigmas": [1]}), "sigmas"),
        ("limbs", described(skeleton={**skeleton, "limbs": [["a"]]}), "limb|no export"),
        ("sizes", described(preprocessing={"min_size": "x", "max_size": 1, "channel_order": "RGB"}), "_size is"),
        ("size", described(preprocessing={"min_size": 10**9, "max_size": 10**9, "channel_order": "RGB"}), "_size is"),
        ("order", described(preprocessing={"min_size": 1, "max_size": 1, "channel_order": "HSV"}), "HSV"),
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


CONFIG = ("--config-file", "config.yaml")
WEIGHTS = ("MODEL.WEIGHTS", "model.pth")
FLAGS = [
    ("train_net", [], "config file"),
    ("train_net", [*CONFIG, "--num-gpus", "many"], "invalid int value"),
    ("train_net", [*CONFIG, "--num-gpus", "0"], "--num-gpus"),
    ("train_net", [*CONFIG, "--num-gpus", "-2"], "--num-gpus"),
    ("train_net", [*CONFIG, "--num-machines", "0"], "--num-machines"),
    ("train_net", [*CONFIG, "--num-machines", "2"], "--dist-url"),
    ("train_net", [*CONFIG, "--machine-rank", "3"], "--machine-rank"),
    ("train_net", ["--config-file", "images"], "does not exist"),
    ("train_net", ["--config-file", "truth.json"], "unknown key|does not hold"),
    ("train_net", ["--config-file", "photo.jpg"], "photo.jpg"),
    ("train_net", ["--config-file"], "expected one argument"),
    ("train_net", ["--config", "config.yaml", "--nonsense"], "nonsense|unrecognized"),
    ("train_net", [*CONFIG, "OUTPUT_DIR", "truth.json"], "cannot write to OUTPUT_DIR truth.json"),
    ("test_net", [*CONFIG], "nothing to evaluate"),
    ("test_net", [*CONFIG, "MODEL.WEIGHTS", "images"], "no weights file"),
    ("test_net", [*CONFIG, "MODEL.WEIGHTS", "timm://nobody"], "timm"),
    ("test_net", [*CONFIG, "MODEL.WEIGHTS", "photo.jpg"], "photo.jpg"),
    ("demo", [], "--output"),
    ("demo", [*CONFIG, "--input", "photo.jpg"], "--output"),
    ("demo", [*CONFIG, "--output", "out"], "--input"),
    ("demo", [*CONFIG, "--input", "absent.jpg", "--output", "out", *WEIGHTS], "absent.jpg"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "photo.jpg", *WEIGHTS], "photo.jpg"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--top-k", "0", *WEIGHTS], "top.k"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--score-threshold", "x", *WEIGHTS], "score"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--device", "tpu9", *WEIGHTS], "tpu9"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--device", "cuda:99", *WEIGHTS], "cuda"),
    ("demo", [*CONFIG, "--input", "truth.json", "--output", "output/d", *WEIGHTS], "truth.json"),
    ("visualize_attention", [*CONFIG, "--input", "absent.jpg", "--output", "out", *WEIGHTS], "absent.jpg"),
    ("visualize_attention", [*CONFIG, "--input", "photo.jpg", "--output", "truth.json", *WEIGHTS], "truth.json"),
    ("visualize_attention", [*CONFIG, "--input", "photo.jpg", "--output", "o", "--stage", "9", *WEIGHTS], "--stage 9"),
    ("visualize_attention", [*CONFIG, "--input", "photo.jpg", "--output", "o", "--persons", "0"], "--persons 0"),
    ("visualize_attention", [*CONFIG, "--input", "photo.jpg", "photo.jpg", "--output", "o"], "photo"),
    ("visualize_attention", [*CONFIG, "--input", "photo.jpg", "--output", "o"], "MODEL.WEIGHTS"),
    ("export_onnx", [*CONFIG, "--output", "truth.json", *WEIGHTS], "truth.json exists"),
    ("export_onnx", [*CONFIG, "--output", "absent/model.onnx", *WEIGHTS], "cannot write"),
    ("export_onnx", [*CONFIG, "--output", "model.onnx", "--opset", "3", *WEIGHTS], "opset"),
    ("export_onnx", [*CONFIG, "--output", "model.onnx", "--opset", "999", *WEIGHTS], "opset"),
    ("export_onnx", [*CONFIG, "--output", "model.onnx", "--compare", "absent.jpg", *WEIGHTS], "absent.jpg"),
    ("web_demo", [*CONFIG, *WEIGHTS, "--port", "99999"], "cannot listen"),
    ("web_demo", [*CONFIG, *WEIGHTS, "--port", "-1"], "cannot listen"),
    ("web_demo", [*CONFIG, *WEIGHTS, "--host", "no.such.host.invalid"], "cannot listen"),
    ("convert_weights", [], "--source"),
    ("convert_weights", ["--source", "mars", "model.pth", "out.pth"], "invalid choice"),
    ("convert_weights", ["--source", "authors", "model.pth", "truth.json"], "truth.json exists already"),
    ("convert_weights", ["--source", "authors", "model.pth", "absent/out.pth"], "absent"),
    ("convert_weights", ["--source", "authors", "absent.pth", "out.pth"], "absent.pth"),
    ("convert_weights", ["--source", "authors", "images", "out.pth"], "images"),
    ("evaluate_results", ["--dataset", "truth.json"], "--results"),
    ("evaluate_results", ["--dataset", "truth.json", "--results", "absent.json"], "absent.json"),
    ("evaluate_results", ["--dataset", "truth.json", "--results", "images"], "images"),
    ("evaluate_results", ["--dataset", "truth.json", "--results", "results.json", "--sigmas", "0.1"], "sigmas"),
    ("evaluate_results", ["--dataset", "truth.json", "--results", "results.json", "--sigmas", *"123", "-1"], "sigmas"),
    ("evaluate_results", ["--dataset", "truth.json", "--results", "results.json", "--backend", "x"], "invalid choice"),
    (
        "evaluate_results",
        ["--dataset", "truth.json", "--results", "results.json", "--protocol", "crowdpose"],
        "crowdIndex",
    ),
    (
        "evaluate_results",
        ["--dataset", "truth.json", "--results", "results.json", "--output", "absent/a.json"],
        "absent",
    ),
    (
        "evaluate_results",
        ["--dataset", "truth.json", "--results", "results.json", "--per-keypoint", "truth.json/a.png"],
        "truth.json",
    ),
    ("check_dataset", [], "datasets"),
    ("check_dataset", ["absent.json"], "absent.json"),
    ("check_dataset", ["truth.json@absent"], "absent"),
    ("check_dataset", ["truth.json@images", "--output", "absent/report.json"], "absent"),
    ("check_dataset", ["truth.json@images", "--picture", "truth.json/a.png"], "truth.json"),
    ("prepare_crowdpose", [], "--annotations"),
    ("prepare_crowdpose", ["--annotations", "absent"], "absent"),
    ("prepare_crowdpose", ["--annotations", "images", "--images", "images"], "crowdpose_"),
    ("prepare_crowdpose", ["--annotations", "truth.json", "--images", "images"], "must be named"),
    ("prepare_minicoco", ["--coco", "absent"], "absent"),
    ("prepare_minicoco", ["--coco", "absent", "--output", "images"], "exists already"),
    ("plot_training", ["absent", "--output", "a.png"], "absent"),
    ("plot_training", ["truth.json", "--output", "a.png"], "truth.json"),
    ("plot_training", ["photo.jpg", "--output", "a.png"], "photo.jpg"),
    ("plot_training", ["truth.json", "--output", "a.png", "--labels", "a", "b"], "labels"),
    ("benchmark", [*CONFIG, "--size", "1", "1"], "--size"),
    ("benchmark", [*CONFIG, "--batch", "0"], "--batch"),
    ("benchmark", [*CONFIG, "--output", "photo.jpg"], "photo.jpg"),
    ("benchmark", [*CONFIG, "--output", "truth.json"], "truth.json"),
    ("benchmark", [*CONFIG, "--precision", "int4"], "invalid choice"),
    ("reproduce_tables", ["--tables", "table9"], "table9"),
    ("reproduce_tables", ["--num-gpus", "0"], "--num-gpus"),
    ("reproduce_tables", ["--update", "absent.md", "--output", "images/none"], "absent.md"),
    ("reproduce_tables", ["--launch", "--seeds", "1", "--", "SOLVER.MAX_ITER"], "pairs"),
    ("overfit", ["--dataset", "absent.json"], "absent.json"),
    ("overfit", ["--dataset", "truth.json@images", "--num-images", "0", "OUTPUT_DIR", "output/o"], "--num-images"),
    ("overfit", ["--dataset", "truth.json@images", "--num-images", "5", "OUTPUT_DIR", "output/o"], "suitable"),
    ("overfit", ["--dataset", "a'b.json"], "a'b.json"),
    ("quickstart", ["--minutes", "0"], "--minutes"),
    ("quickstart", ["--minutes", "nan"], "--minutes"),
    ("quickstart", ["--output", "truth.json"], "truth.json"),
    ("make_model_zoo", ["--output", "absent/zoo.md"], "absent/zoo.md"),
    ("make_model_zoo", ["--output", "images"], "images"),
    ("make_model_zoo", ["--output", "a.md", "--results", "absent"], "is no folder"),
    ("analyze_model", [], "--config-file"),
    ("analyze_model", [*CONFIG, "--depth", "-1"], "--depth"),
    ("analyze_model", ["--config-file", "absent.yaml"], "absent.yaml"),
    ("visualize_data", [*CONFIG, "--output", "truth.json"], "truth.json"),
    ("visualize_data", [*CONFIG, "--output", "output/d", "--number", "0"], "--number"),
    ("draw_architecture", ["--output", "output/a.xyz"], "xyz"),
    ("make_config_reference", ["--output", "absent/a.md"], "absent"),
    ("visualize_results", [], "required"),
    ("install_detectron2", ["--nonsense"], "nonsense"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), listed(FLAGS))
def test_flags(refused, monkeypatch, name, arguments, words):
    monkeypatch.setenv("DETECTRON2_DATASETS", "datasets")
    refused(tool(name, *arguments), words)


def test_every_tool_is_in_the_table():
    modules = {"detectron2_patches"}
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} - modules <= {name for name, *_ in FLAGS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("train_net", [*CONFIG, "SOLVER.BASE_LR", "-1.0"], "BASE_LR is -1.0"),
        ("convert_weights", ["--source", "swin", "absent.pth", "out.pth"], "absent.pth"),
    ],
)
def test_as_users_start_them(workspace, name, arguments, words):
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *arguments]
    done = subprocess.run(
        command, cwd=workspace, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.fullmatch(f"error: .*{words}.*", done.stderr.strip().splitlines()[-1])


def test_names_in_messages_cannot_steer_the_terminal(capsys):
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError("there is no image a\nerror: b\x1b[2J\r.jpg")
    assert capsys.readouterr().err == "error: there is no image a error: b [2J .jpg\n"


def test_a_hostile_file_is_named_by_its_loader(tmp_path):
    torch.save(bad_inputs.Code(tmp_path / "run"), tmp_path / "code.pth")
    with pytest.raises(UserError, match="code.pth.*would run code"):
        read_checkpoint(str(tmp_path / "code.pth"))
