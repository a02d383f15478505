"""tools/install_detectron2.py: the patches, the wheel, and what it says when something is amiss."""

import base64
import csv
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
SCRIPT = TOOLS / "install_detectron2.py"
sys.path.insert(0, str(TOOLS))

import detectron2_patches as patches  # noqa: E402
import install_detectron2 as installer  # noqa: E402


def run(*arguments, **environment):
    command, environment = [sys.executable, *map(str, arguments)], {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def one_error(*arguments, **environment):
    """The only line on stderr, of a run that ends with exit code 2."""
    result = run(*arguments, **environment)
    (line,) = result.stderr.strip().splitlines()
    assert result.returncode == 2 and line.startswith("error: "), result.stderr
    return line


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel of the real Detectron2, unpacked."""
    try:
        wheel = installer.build_wheel(tmp_path_factory.mktemp("wheel"))
    except ConnectionError as error:
        pytest.skip(f"needs a package registry: {error}")
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("count", [0, 2])
def test_a_patch_that_finds_another_number_of_matches_is_refused(count, monkeypatch):
    monkeypatch.setattr(patches, "PATCHES", [patches.Patch("a.py", r"\bLINEAR\b", "BILINEAR")])
    with pytest.raises(ValueError, match=f"not Detectron2 v0.6: {count} matches of .* instead of 1 in a.py"):
        patches.patched_files({"detectron2/a.py": b"LINEAR\n" * count})


def test_wheel_record_and_reproducibility(tmp_path):
    files = {"detectron2/__init__.py": b"value = 1\n", "detectron2/a.yaml": b"x: 1\n"}
    path = installer.write_wheel(files, tmp_path / "new" / "folder")
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    record_name = "detectron2-0.6.dist-info/RECORD"
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(contents[record_name].decode()))}
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"value = 1\n").digest()).decode().rstrip("=")
    assert rows.keys() == contents.keys() and rows["detectron2/__init__.py"] == [f"sha256={digest}", "10"]
    assert installer.write_wheel(files, tmp_path / "again").read_bytes() == path.read_bytes()


def test_altered_sdist_is_refused_and_its_code_is_not_run(tmp_path):
    sources, wheels, trace = tmp_path / "sources", tmp_path / "wheels", tmp_path / "was_run"
    sources.mkdir()
    with tarfile.open(sources / installer.SDIST_NAME, "w:gz") as archive:
        text = f"open({str(trace)!r}, 'w')\n"
        member = tarfile.TarInfo(f"{installer.SDIST_ROOT}/setup.py")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
    error = one_error(SCRIPT, "--wheel-dir", wheels, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(sources))
    assert installer.SDIST_SHA256 in error
    assert not wheels.exists() and not trace.exists()


def test_registry_out_of_reach(tmp_path):
    error = one_error(SCRIPT, "--wheel-dir", tmp_path / "wheels", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert "could not download pb1-detectron2==0.6" in error


def test_existing_detectron2_stays_and_a_mere_folder_does_not_count(tmp_path):
    (tmp_path / "detectron2").mkdir()
    # -S: a Python without any installed package
    assert "pip install torch torchvision" in one_error("-S", "-B", SCRIPT, PYTHONPATH=str(tmp_path))
    (tmp_path / "detectron2" / "__init__.py").write_text("")
    result = run("-S", "-B", SCRIPT, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0 and f"{tmp_path}/detectron2/__init__.py is already installed" in result.stdout
    assert not list(tmp_path.glob("*.dist-info"))


def test_real_wheel_holds_all_of_detectron2(unpacked):
    projects = (f"detectron2/projects/{name}/__init__.py" for name in ("point_rend", "deeplab", "panoptic_deeplab"))
    for name in ("detectron2-0.6.dist-info/LICENSE", *projects):
        assert (unpacked / name).is_file(), name
    for path in unpacked.rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_real_wheel_works(unpacked):
    code = f"""
import numpy as np, torch, warnings
from detectron2 import _C, model_zoo
from detectron2.data import transforms as T
from detectron2.modeling import build_backbone
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils.collect_env import collect_env_info

assert _C.__file__.startswith({str(unpacked)!r}), _C.__file__
cfg = model_zoo.get_config("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml")
cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
print({{name: tuple(x.shape) for name, x in build_backbone(cfg)(torch.zeros(1, 3, 64, 96)).items()}})
# a rectangle of 3 x 2 pixels at (1, 1)
mask = polygons_to_bitmask([np.array([1.0, 1, 4, 1, 4, 3, 1, 3])], 6, 6)
assert mask.dtype == bool and mask.sum() == 6, mask
image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1).repeat(3, 2)
assert (T.ExtentTransform((0, 0, 4, 4), (4, 4)).apply_image(image) == image).all()
assert "not compiled" in collect_env_info()
try:
    _C.nms_rotated(1, scale=2)
    raise AssertionError
except ImportError as error:
    assert "nms_rotated is a compiled operator" in str(error)
import detectron2.engine, detectron2.evaluation, detectron2.export, detectron2.utils.visualizer
"""
    result = run("-c", code, PYTHONPATH=str(unpacked), OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    sizes = ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))
    assert eval(result.stdout) == {f"p{level}": (1, 256, *size) for level, size in enumerate(sizes, start=2)}
