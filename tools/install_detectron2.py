#!/usr/bin/env python3
"""Install Detectron2 v0.6, made to run on current Python, PyTorch, numpy, Pillow and setuptools.

Detectron2 is on no package registry under its own name. The source distribution `pb1-detectron2==0.6` holds its Python
files and model-zoo configs, without the C++ sources. This script downloads it through pip, with pip's own settings of
index, proxy and certificates, verifies its checksum, applies the patches of detectron2_patches.py, builds a wheel and
installs it with its dependencies. None of the downloaded code is run on the way. A Detectron2 that is already there,
from wherever it came, is left as it is.

Examples:
    python tools/install_detectron2.py                      # into the environment of this `python`
    python tools/install_detectron2.py --wheel-dir wheels   # only write the wheel, to carry it elsewhere
"""

import argparse
import base64
import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from detectron2_patches import patched_files

SDIST_REQUIREMENT = "pb1-detectron2==0.6"
SDIST_ROOT = "pb1-detectron2-0.6"
SDIST_NAME = f"{SDIST_ROOT}.tar.gz"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"

PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
WHEEL_NAME = "detectron2-0.6-py3-none-any.whl"
DIST_INFO = "detectron2-0.6.dist-info"

# Where the source distribution's folders go in the wheel: Detectron2's own package mapping.
PACKAGES = {
    "detectron2": "detectron2",
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
    "projects/Panoptic-DeepLab/panoptic_deeplab": "detectron2/projects/panoptic_deeplab",
    "LICENSE": f"{DIST_INFO}/LICENSE",
}

# What Detectron2 imports; its own list has more, for the retired Caffe2 export, and excludes the current iopath.
# hydra-core 1.3 and omegaconf 2.4 do not go together.
REQUIREMENTS = """
Pillow>=7.1 cloudpickle fvcore>=0.1.5,<0.1.6 hydra-core>=1.1 iopath>=0.1.7,<0.2 matplotlib numpy omegaconf>=2.1,<2.4
pycocotools>=2.0.2 tabulate tensorboard termcolor>=1.1 tqdm>4.29.0 yacs>=0.1.8
""".split()
METADATA = """\
Metadata-Version: 2.1
Name: detectron2
Version: 0.6
Summary: Detectron2 v0.6 (Python files), patched to run on current versions of its dependencies
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
License: Apache-2.0
Requires-Python: >=3.9
""" + "".join(f"Requires-Dist: {requirement}\n" for requirement in REQUIREMENTS)

# pip asks a source distribution for its metadata by running its setup.py. A build backend under setuptools' name
# answers instead: nothing downloaded is run, and neither torch nor setuptools is needed.
BACKEND = """\
from pathlib import Path

class __legacy__:
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        file = Path(folder, "pb1_detectron2-0.6.dist-info", "METADATA")
        file.parent.mkdir()
        file.write_text("Metadata-Version: 2.1\\nName: pb1-detectron2\\nVersion: 0.6\\n")
        return file.parent.name
"""


def download_sdist(folder: Path) -> Path:
    """Fetch the source distribution into `folder` with pip, check it, and return its path."""
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").write_text("")
    (backend / "build_meta.py").write_text(BACKEND)
    options = ["--no-deps", "--no-binary", "pb1-detectron2", "--use-pep517", "--no-build-isolation"]
    command = [*PIP, "download", *options, "--dest", str(folder), SDIST_REQUIREMENT]
    result = run(*command, PYTHONPATH=str(backend.parent))
    path = folder / SDIST_NAME
    if not path.is_file():
        raise ConnectionError(
            f"pip could not download {SDIST_REQUIREMENT} ({last_line(result.stderr)}): check the network and pip's "
            f"settings, or name a folder that holds {SDIST_NAME} in PIP_FIND_LINKS"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != SDIST_SHA256:
        advice = "so nothing was installed: empty pip's cache ('pip cache purge') or use another package index"
        raise ValueError(f"{SDIST_NAME} has another SHA-256 than {SDIST_SHA256}, {advice}")
    return path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run this Python without input and with additional environment variables, and keep what it prints."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    return subprocess.run([sys.executable, *arguments], env={**os.environ, **environment}, **options)


def last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no message"])[-1].removeprefix("ERROR:").strip(" .")


def read_sdist(path: Path) -> dict[str, bytes]:
    """Return {path inside the wheel: content} of the files of `PACKAGES`."""
    files = {}
    with tarfile.open(path) as archive:
        for member in filter(tarfile.TarInfo.isfile, archive):
            path = PurePosixPath(member.name.removeprefix(f"{SDIST_ROOT}/"))
            for source, destination in PACKAGES.items():
                if path.is_relative_to(source):
                    name = PurePosixPath(destination, path.relative_to(source))
                    files[str(name)] = archive.extractfile(member).read()
    return files


def write_wheel(files: dict[str, bytes], folder: Path) -> Path:
    """Write `files` as a wheel into `folder`, and return its path; the same files give the same bytes."""
    wheel = "Wheel-Version: 1.0\nGenerator: querypose-install-detectron2\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {**files, f"{DIST_INFO}/METADATA": METADATA.encode(), f"{DIST_INFO}/WHEEL": wheel.encode()}
    files = dict(sorted(files.items()))
    record = f"{DIST_INFO}/RECORD,,\n"
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files[f"{DIST_INFO}/RECORD"] = record.encode()

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WHEEL_NAME
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=(2021, 11, 15, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return path


def build_wheel(folder: Path) -> Path:
    """Download, verify, patch and pack Detectron2; return the path of the wheel in `folder`."""
    with tempfile.TemporaryDirectory() as temporary:
        return write_wheel(patched_files(read_sdist(download_sdist(Path(temporary)))), folder)


def install() -> None:
    """Install the wheel and its dependencies with pip and check that it imports."""
    with tempfile.TemporaryDirectory() as folder:
        result = run(*PIP, "install", str(build_wheel(Path(folder))))
    if result.returncode != 0:
        raise OSError(f"pip could not install {WHEEL_NAME} with its dependencies: {last_line(result.stderr)}")
    # -P: a folder named detectron2 where the user happens to stand is not what was installed
    result = run("-P", "-c", "import detectron2.model_zoo, detectron2.modeling, detectron2.data")
    if result.returncode != 0:
        raise OSError(f"Detectron2 was installed but does not import: {last_line(result.stderr)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel-dir", metavar="DIR", type=Path, help="only write the wheel into this folder")
    options = parser.parse_args()
    if options.wheel_dir:
        print(f"wrote {build_wheel(options.wheel_dir)}")
        return
    existing = importlib.util.find_spec("detectron2")
    if existing and existing.origin:  # without an origin it is a mere folder of that name
        print(f"Detectron2 at {existing.origin} is already installed and stays as it is")
        return
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision")):
        raise ValueError("Detectron2 needs PyTorch: run 'pip install torch torchvision' first")
    install()
    print("installed Detectron2 0.6")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
