"""tools/install_detectron2.py: the patches, the wheel, and what it says when something is amiss."""

import base64
import csv
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
SCRIPT = TOOLS / "install_detectron2.py"
sys.path.insert(0, str(TOOLS))

import detectron2_patches as patches  # noqa: E402
import install_detectron2 as installer  # noqa: E402


def run(*arguments, **environment):
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def one_error(result):
    """The only line on stderr, of a run that ended with exit code 2."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel of the real Detectron2, unpacked."""
    try:
        wheel = installer.build_wheel(tmp_path_factory.mktemp("wheel"))
    except installer.InstallError as error:
        pytest.skip(f"needs a package registry: {error}")
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_numpy_aliases_become_builtins_and_numpy_types_stay():
    (patch,) = [patch for patch in patches.PATCHES if patch.reason.startswith("numpy 1.24")]
    source = "a(np.bool), np.int, np.float)\nb = np.int32, np.float64, np.bool_, np.integer, xnp.int\n"
    files = {"detectron2/any.py": source.encode(), "detectron2/other.yaml": source.encode()}
    patches.apply_patch(files, patch._replace(count=3))
    assert files["detectron2/other.yaml"] == source.encode()
    expected = "a(bool), int, float)\nb = np.int32, np.float64, np.bool_, np.integer, xnp.int\n"
    assert files["detectron2/any.py"].decode() == expected


@pytest.mark.parametrize("count", [0, 2])
def test_a_patch_that_finds_another_number_of_matches_is_refused(count):
    (patch,) = [patch for patch in patches.PATCHES if "Pillow" in patch.reason]
    with pytest.raises(ValueError, match=f"found {count} matches instead of 1 in {patch.file}"):
        patches.apply_patch({patch.file: b"Image.LINEAR\n" * count}, patch)


def test_stand_in_loads_and_says_which_operator_is_missing():
    module = types.ModuleType("detectron2._C")
    exec(patches.STAND_IN, module.__dict__)
    assert module.has_cuda() is False
    operator = module.nms_rotated  # looking it up is harmless: Detectron2 does so at import
    with pytest.raises(ImportError, match="nms_rotated is a compiled operator"):
        operator(1, scale=2)
    assert not hasattr(module, "__wrapped__")


def test_wheel_record_and_reproducibility(tmp_path):
    files = {"detectron2/__init__.py": b"value = 1\n", 'detectron2/a,b".yaml': b"x: 1\n"}
    path = installer.write_wheel(files, tmp_path / "new" / "folder")
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    record_name = "detectron2-0.6.dist-info/RECORD"
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(contents[record_name].decode()))}
    assert rows.keys() == contents.keys()
    assert rows.pop(record_name) == ["", ""]
    for name, (digest, size) in rows.items():
        expected = base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest()).decode().rstrip("=")
        assert (digest, int(size)) == (f"sha256={expected}", len(contents[name]))
    assert installer.write_wheel(files, tmp_path / "again").read_bytes() == path.read_bytes()


def test_altered_sdist_is_refused_and_its_code_is_not_run(tmp_path):
    sources, wheels, trace = tmp_path / "sources", tmp_path / "wheels", tmp_path / "was_run"
    sources.mkdir()
    with tarfile.open(sources / installer.SDIST_NAME, "w:gz") as archive:
        metadata = "Metadata-Version: 2.1\nName: pb1-detectron2\nVersion: 0.6\n"
        for name, text in {"PKG-INFO": metadata, "setup.py": f"open({str(trace)!r}, 'w')\n"}.items():
            member = tarfile.TarInfo(f"{installer.SDIST_ROOT}/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    result = run(SCRIPT, "--wheel-dir", wheels, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(sources))
    assert installer.SDIST_SHA256 in one_error(result)
    assert not wheels.exists() and not trace.exists()


def test_registry_out_of_reach(tmp_path):
    result = run(SCRIPT, "--wheel-dir", tmp_path / "wheels", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert "could not download pb1-detectron2==0.6" in one_error(result)
    assert not (tmp_path / "wheels").exists()


def test_without_pytorch():
    # -S: a Python without any installed package
    assert "pip install torch torchvision" in one_error(run("-S", SCRIPT, PYTHONPATH=""))


def fake_detectron2(folder, generator=None):
    (folder / "detectron2").mkdir()
    (folder / "detectron2" / "__init__.py").write_text("")
    if generator:
        info = folder / "detectron2-0.6.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.6\n")
        (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nGenerator: {generator}\n")


@pytest.mark.parametrize("generator", [None, "setuptools (84.2.1)", installer.generator()])
def test_existing_detectron2_stays(tmp_path, generator):
    fake_detectron2(tmp_path, generator)
    before = sorted(tmp_path.rglob("*"))
    result = run("-S", "-B", SCRIPT, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "stays as it is" in result.stdout and str(tmp_path) in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_wheel_of_an_older_script_and_a_mere_folder_do_not_count(tmp_path):
    older, folder = tmp_path / "older", tmp_path / "folder"
    older.mkdir()
    (folder / "detectron2").mkdir(parents=True)
    fake_detectron2(older, "querypose-install-detectron2 (000000000000)")
    for path in (older, folder):
        assert "pip install torch" in one_error(run("-S", "-B", SCRIPT, PYTHONPATH=str(path)))


def test_real_wheel_holds_all_of_detectron2(unpacked):
    for name in (
        "detectron2/model_zoo/configs/COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
        "detectron2/model_zoo/configs/common/models/mask_rcnn_fpn.py",
        "detectron2/projects/point_rend/__init__.py",
        "detectron2/projects/deeplab/__init__.py",
        "detectron2/projects/panoptic_deeplab/__init__.py",
        "detectron2-0.6.dist-info/LICENSE",
    ):
        assert (unpacked / name).is_file(), name
    assert {path.name for path in unpacked.iterdir()} == {"detectron2", "detectron2-0.6.dist-info"}
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
import detectron2.engine, detectron2.evaluation, detectron2.export, detectron2.utils.visualizer
"""
    script = unpacked.parent / "check.py"
    script.write_text(code)
    result = run(script, PYTHONPATH=str(unpacked), OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    sizes = ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))
    assert eval(result.stdout) == {f"p{level}": (1, 256, *size) for level, size in enumerate(sizes, start=2)}
