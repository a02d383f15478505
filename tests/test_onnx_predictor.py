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
from querypose.onnx import OnnxPosePredictor
from querypose.structures import to_coco

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[1]
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
assert not set({BLOCKED}) & set(sys.modules)
print(len(persons), persons.keypoints.shape[1:], round(float(persons.scores[0]), 3))
"""

SIGNALS_AFTER_TWO_PREDICTORS = """
import gc, os, signal, sys
from querypose.onnx import OnnxPosePredictor
predictors = [OnnxPosePredictor(sys.argv[1], runtime="openvino") for _ in range(2)]
while predictors:
    predictors.pop(0)
    gc.collect()
    signal.signal(signal.SIGUSR1, lambda *_: print("alive"))
    os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.fixture(scope="module")
def torch_predictor():
    files = ROOT / "configs" / "quickstart.yaml", ROOT / "weights" / "quickstart.pth"
    return PosePredictor(*files, device="cpu", score_threshold=0.0, precision="float32")


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request):
    """Keyword arguments for an exact predictor in each runtime."""
    pytest.importorskip(request.param)
    return {"runtime": request.param, "precision": "float32", "num_threads": 1}


@pytest.fixture(scope="module")
def picture():
    """A synthetic scene cut from an image of the documentation: (H, W, 3)."""
    with Image.open(ROOT / "docs" / "images" / "quickstart.jpg") as opened:
        return np.array(opened.convert("RGB"))[:300, :400]


@pytest.fixture(scope="module")
def file(torch_predictor, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "quickstart.onnx"
    return export_onnx(torch_predictor.model, torch_predictor.cfg, torch_predictor.skeleton, path)


def test_the_same_persons_as_with_pytorch(torch_predictor, file, picture, runtime):
    predictor = OnnxPosePredictor(file, **runtime)
    assert predictor.skeleton == torch_predictor.skeleton
    for image in (picture, picture[:, :155], Image.fromarray(picture[:111])):
        expected, found = torch_predictor(image), predictor(image)
        assert found.image_size == expected.image_size and len(found) == len(expected) > 0
        assert np.abs(found.scores - expected.scores.numpy()).max() < 1e-4
        scale = max(expected.image_size)
        assert np.abs(found.boxes - expected.pred_boxes.tensor.numpy()).max() < 1e-3 * scale
        assert np.abs(found.keypoints - expected.pred_keypoints.numpy()).max() < 1e-3 * scale
        sigmas = expected.pred_keypoint_sigmas.numpy()
        assert np.abs(found.keypoint_sigmas - sigmas).max() < 1e-3 * scale and sigmas.max() > 5e-3 * scale

    ours, theirs = found.to_coco(7), to_coco(expected, 7)
    assert [result.keys() for result in ours] == [result.keys() for result in theirs]
    assert np.abs(np.array(ours[0]["keypoints"]) - theirs[0]["keypoints"]).max() < 1e-3 * scale
    assert np.abs(np.array(ours[0]["bbox"]) - theirs[0]["bbox"]).max() < 1e-3 * scale


def test_thresholds_and_the_order_of_channels(file, picture, runtime):
    everyone = OnnxPosePredictor(file, **runtime)(picture)
    middle = float(everyone.scores[len(everyone) // 2])
    best = OnnxPosePredictor(file, score_threshold=middle, image_format="BGR", **runtime)(picture[:, :, ::-1])
    assert len(best) == int((everyone.scores >= middle).sum()) < len(everyone)
    assert np.allclose(best.keypoints, everyone.keypoints[: len(best)], atol=1e-3)
    assert len(OnnxPosePredictor(file, score_threshold=1.0, **runtime)(picture)) == 0


def test_half_precision_in_openvino_is_close(file, picture):
    pytest.importorskip("openvino")
    exact, fast = (OnnxPosePredictor(file, score_threshold=0.3, precision=p)(picture) for p in ("float32", "auto"))
    assert len(exact) == len(fast) > 0
    assert np.abs(exact.keypoints[..., :2] - fast.keypoints[..., :2]).max() < 8


def test_a_process_survives_signals_after_several_openvino_predictors(file):
    pytest.importorskip("openvino")
    command = [sys.executable, "-c", SIGNALS_AFTER_TWO_PREDICTORS, str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\nalive\n"), done.stderr


def test_the_runtime_is_chosen_by_what_is_installed(file, monkeypatch):
    installed = {"onnxruntime"}
    monkeypatch.setattr(onnx_module, "find_spec", lambda name: name in installed)
    assert OnnxPosePredictor(file).runtime == "ONNX Runtime"
    with pytest.raises(UserError, match="needs OpenVINO: pip install openvino"):
        OnnxPosePredictor(file, runtime="openvino")
    installed.clear()
    with pytest.raises(UserError, match="needs ONNX Runtime: pip install onnxruntime"):
        OnnxPosePredictor(file)
    with pytest.raises(UserError, match="the runtime must be one of openvino, onnxruntime, not tensorrt"):
        OnnxPosePredictor(file, runtime="tensorrt")
    with pytest.raises(UserError, match="the precision must be float32 or auto, not int8"):
        OnnxPosePredictor(file, precision="int8")
    with pytest.raises(UserError, match="score threshold must be from 0 to 1, not 30"):
        OnnxPosePredictor(file, score_threshold=30)


def test_neither_pytorch_nor_detectron2_is_imported(file, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "picture.png")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(file), str(tmp_path / "picture.png")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "(17, 3)" in result.stdout and int(result.stdout.split()[0]) > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: b"hello", "no ONNX file"),
        (lambda content: b"", "no ONNX file|is not an export"),
        (lambda content: content[:300_000], "is damaged"),
        (lambda content: content.replace(b'{"format": 1', b'{"format": 9'), "its format is 9, not 1"),
    ],
)
def test_unusable_files(file, tmp_path, change, words, runtime):
    (tmp_path / "model.onnx").write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=words):
        OnnxPosePredictor(tmp_path / "model.onnx", **runtime)
