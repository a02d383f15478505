"""OnnxPosePredictor: the same persons as PosePredictor, without PyTorch; the messages about unusable files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from querypose import PosePredictor
from querypose import onnx as onnx_module
from querypose.errors import UserError
from querypose.export import export_onnx
from querypose.image_io import read_image_rgb
from querypose.onnx import OnnxPosePredictor

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "images" / "synthetic_people.jpg"
PICTURE = read_image_rgb(FILE)
BLOCKED = ["torch", "torchvision", "detectron2", "timm", "onnx", "fvcore", "cv2", "scipy"]
WITHOUT_TORCH = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
import querypose
from querypose.onnx import OnnxPosePredictor
persons = OnnxPosePredictor(sys.argv[1], score_threshold=0.05)(sys.argv[2])
assert len(persons) > 0 and persons.keypoints.shape[1:] == (17, 3)
assert not set({BLOCKED}) & set(sys.modules)
"""
SIGNALS_AFTER_TWO_OPENVINO_PREDICTORS = """
import gc, os, signal, sys
from querypose.onnx import OnnxPosePredictor
predictors = [OnnxPosePredictor(sys.argv[1], runtime="openvino") for _ in range(2)]
while predictors:
    predictors.pop(0)
    gc.collect()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.fixture(scope="module")
def torch_predictor():
    files = ROOT / "configs" / "quickstart.yaml", ROOT / "weights" / "quickstart.pth"
    return PosePredictor(*files, device="cpu", score_threshold=0.0, precision="float32")


@pytest.fixture(scope="module")
def file(torch_predictor, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "quickstart.onnx"
    return export_onnx(torch_predictor.model, torch_predictor.cfg, torch_predictor.skeleton, path)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def predictor(request, file):
    pytest.importorskip(request.param)
    return OnnxPosePredictor(file, runtime=request.param, num_threads=1)


def test_the_same_persons_as_with_pytorch(torch_predictor, predictor):
    assert predictor.skeleton == torch_predictor.skeleton
    for image in (PICTURE, PICTURE[:, :155], Image.fromarray(PICTURE[:111])):
        expected, found = torch_predictor(image), predictor(image)
        assert found.image_size == expected.image_size and len(found) == len(expected) > 0
        assert np.abs(found.scores - expected.scores.numpy()).max() < 1e-4
        scale = max(expected.image_size)
        assert np.abs(found.boxes - expected.pred_boxes.tensor.numpy()).max() < 1e-3 * scale
        assert np.abs(found.keypoints - expected.pred_keypoints.numpy()).max() < 1e-3 * scale
        sigmas = expected.pred_keypoint_sigmas.numpy()
        assert np.abs(found.keypoint_sigmas - sigmas).max() < 1e-3 * scale and sigmas.max() > 5e-3 * scale

    ours, theirs = found.to_coco(7), expected.to_coco(7)
    assert [result.keys() for result in ours] == [result.keys() for result in theirs]
    assert np.abs(np.array(ours[0]["keypoints"]) - theirs[0]["keypoints"]).max() < 1e-3 * scale
    assert np.abs(np.array(ours[0]["bbox"]) - theirs[0]["bbox"]).max() < 1e-3 * scale


def test_thresholds_and_the_order_of_channels(predictor, monkeypatch):
    everyone = predictor(PICTURE)
    middle = float(everyone.scores[len(everyone) // 2])
    monkeypatch.setattr(predictor, "score_threshold", middle)
    monkeypatch.setattr(predictor, "image_format", "BGR")
    best = predictor(PICTURE[:, :, ::-1])
    assert len(best) == int((everyone.scores >= middle).sum()) < len(everyone)
    assert np.allclose(best.keypoints, everyone.keypoints[: len(best)], atol=1e-3)
    monkeypatch.setattr(predictor, "score_threshold", 1.0)
    assert len(predictor(PICTURE)) == 0 and predictor(PICTURE).to_coco(7) == []


def test_half_precision_in_openvino_is_close(torch_predictor, file):
    pytest.importorskip("openvino")
    fast = OnnxPosePredictor(file, score_threshold=0.3, image_format="BGR", precision="auto")(PICTURE[:, :, ::-1])
    exact = torch_predictor(PICTURE)
    assert len(fast) == (exact.scores >= 0.3).sum() > 0
    assert np.abs(fast.keypoints[..., :2] - exact.pred_keypoints[: len(fast), :, :2].numpy()).max() < 8


@pytest.mark.parametrize("program", [WITHOUT_TORCH, SIGNALS_AFTER_TWO_OPENVINO_PREDICTORS], ids=["torch", "signals"])
def test_processes(file, program):
    """Neither PyTorch nor Detectron2 is imported; signals find a process alive after several predictors."""
    if "openvino" in program:
        pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", program, file, FILE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_runtime_is_chosen_by_what_is_installed(file, monkeypatch):
    installed = {"onnxruntime"}
    monkeypatch.setattr(onnx_module, "find_spec", lambda name: name in installed)
    assert OnnxPosePredictor(file).runtime == "ONNX Runtime"
    with pytest.raises(UserError, match="has no execution provider TensorPU"):
        OnnxPosePredictor(file, providers=["TensorPU"])
    installed.clear()
    for options, words in (
        ({"runtime": "openvino"}, "needs OpenVINO: pip install openvino"),
        ({}, "needs ONNX Runtime: pip install onnxruntime"),
        ({"runtime": "tensorrt"}, "the runtime must be one of openvino, onnxruntime, not tensorrt"),
        ({"precision": "int8"}, "the precision must be float32 or auto, not int8"),
        ({"score_threshold": 30}, "score threshold must be from 0 to 1, not 30"),
    ):
        with pytest.raises(UserError, match=words):
            OnnxPosePredictor(file, **options)
