"""Wrong command lines of every tool: one sentence, exit code 2, no traceback, nothing overwritten."""

import os
import re
import subprocess
import sys

import pytest
from refusals import ROOT, listed, tool

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
    ("train_net", [*CONFIG, "OUTPUT_DIR", "truth.json"], "cannot write to truth.json: .*OUTPUT_DIR"),
    ("test_net", [*CONFIG], "nothing to evaluate"),
    ("test_net", [*CONFIG, "MODEL.WEIGHTS", "images"], "no weights file"),
    ("test_net", [*CONFIG, "MODEL.WEIGHTS", "timm://nobody"], "timm"),
    ("test_net", [*CONFIG, "MODEL.WEIGHTS", "photo.jpg"], "photo.jpg"),
    ("demo", [], "--input"),
    ("demo", [*CONFIG, "--output", "out"], "--input"),
    ("demo", [*CONFIG, "--input", "absent.jpg", "--output", "out", *WEIGHTS], "absent.jpg"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "photo.jpg", *WEIGHTS], "photo.jpg"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--top-k", "0", *WEIGHTS], "top.k"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--score-threshold", "x", *WEIGHTS], "score"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--device", "tpu9", *WEIGHTS], "tpu9"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--device", "cuda:99", *WEIGHTS], "cuda"),
    ("demo", [*CONFIG, "--input", "truth.json", "--output", "output/d", *WEIGHTS], "truth.json"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--smooth", *WEIGHTS], "--track"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--track", *WEIGHTS], "a single image"),
    ("demo", [*CONFIG, "--input", "photo.jpg", "--output", "out", "--sigmas", "-1"], "--sigmas"),
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
    ("plot_reliability", ["--output", "a.png"], "--dataset"),
    ("plot_reliability", ["--dataset", "absent.json", "--output", "a.png"], "absent.json"),
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
    ("predict_dataset", [*CONFIG, "--input", "absent", "--output", "output/p"], "absent names no image"),
    ("predict_dataset", [*CONFIG, "--input", "images", "--output", "output/p", "--threads", "0"], "--threads"),
    (
        "predict_dataset",
        [*CONFIG, "--input", "images", "--output", "output/q", "MODEL.WEIGHTS", "absent.pth"],
        "absent.pth",
    ),
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
