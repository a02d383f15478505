"""What Detectron2 v0.6 needs to run on current Python, PyTorch, numpy, Pillow and setuptools.

`PATCHES` are textual changes, each with its reason and its number of matches; `STAND_IN` is a
module in the place of the compiled operators. Used by install_detectron2.py; needs nothing but Python.
"""

import re
from typing import NamedTuple


class Patch(NamedTuple):
    reason: str  # why Detectron2 v0.6 needs it
    pattern: str  # multi-line regular expression
    replacement: str  # as of re.sub
    count: int  # how many matches v0.6 has
    file: str = ""  # path inside the wheel; "": every Python file


MODEL_ZOO = "detectron2/model_zoo/model_zoo.py"
PATCHES = (
    Patch("numpy 1.24 removed its aliases of Python's own types", r"\bnp\.(bool|int|float|str)\b", r"\1", 19),
    Patch(
        "Pillow 10 removed the constant LINEAR, another name of BILINEAR",
        r"\bImage\.LINEAR\b",
        "Image.BILINEAR",
        1,
        "detectron2/data/transforms/transform.py",
    ),
    Patch("setuptools 81 removed pkg_resources", r"^import pkg_resources$", "import importlib.resources", 1, MODEL_ZOO),
    Patch(
        "setuptools 81 removed pkg_resources",
        r"pkg_resources\.resource_filename\(\n"
        r"\s*\"detectron2\.model_zoo\", os\.path\.join\(\"configs\", config_path\)\n\s*\)",
        'str(importlib.resources.files("detectron2.model_zoo").joinpath("configs", config_path))',
        1,
        MODEL_ZOO,
    ),
    Patch(
        "torch warns about meshgrid without an explicit indexing",
        r"torch\.meshgrid\(shifts_y, shifts_x\)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        1,
        "detectron2/modeling/anchor_generator.py",
    ),
    Patch(
        "PyTorch 2 has no Caffe2; without this nothing in detectron2.export could be imported",
        r"^from \.api import \*$",
        "try:\n    from .api import *\nexcept ModuleNotFoundError:  # no Caffe2\n    pass",
        1,
        "detectron2/export/__init__.py",
    ),
    Patch(
        "COCOeval_opt needs compiled operators; evaluators that ask for it get the official COCOeval",
        r"^from detectron2\.evaluation\.fast_eval_api import COCOeval_opt$",
        "COCOeval_opt = COCOeval",
        1,
        "detectron2/evaluation/coco_evaluation.py",
    ),
    Patch(
        "torch.jit.script is deprecated and warns; scripting a model scripts these classes as well",
        r"^@torch\.jit\.script\n",
        "",
        2,
        "detectron2/modeling/box_regression.py",
    ),
    Patch(
        "numpy 2 refuses copy=False where a copy is needed",
        r"np\.array\(mask, copy=False\)",
        "np.asarray(mask)",
        1,
        "detectron2/layers/mask_ops.py",
    ),
    Patch("Logger.warn is deprecated", r"logger\.warn\(", "logger.warning(", 9),
)

# Detectron2 imports `detectron2._C` wherever an operator may need it. The stand-in lets those modules load
# and says what is missing when such an operator is used. `collect_env`, run at the start of every training,
# asks for the three facts at its top.
STAND_IN = '''\
"""Stand-in for Detectron2's compiled operators, which this installation does not have."""


def get_compiler_version():
    return "not compiled (pure Python build)"


def get_cuda_version():
    return "not compiled (pure Python build)"


def has_cuda():
    return False


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise ImportError(
            f"detectron2._C.{name} is a compiled operator and this Detectron2 was installed without them: "
            "build Detectron2 from its repository for deformable convolutions and rotated boxes"
        )

    return missing
'''


def apply_patch(files: dict[str, bytes], patch: Patch) -> None:
    """Apply one patch to `files` in place; raise a `ValueError` unless it matches `patch.count` times."""
    total = 0
    for name in [patch.file] if patch.file else [name for name in files if name.endswith(".py")]:
        text, found = re.subn(patch.pattern, patch.replacement, files[name].decode(), flags=re.MULTILINE)
        files[name] = text.encode()
        total += found
    if total != patch.count:
        raise ValueError(
            f"the patch '{patch.reason}' found {total} matches instead of {patch.count} in "
            f"{patch.file or 'all files'}: this is not Detectron2 v0.6"
        )


def patched_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files of the wheel: those of the source distribution, patched, and the `_C` stand-in."""
    files = dict(files)
    for patch in PATCHES:
        apply_patch(files, patch)
    return {**files, "detectron2/_C.py": STAND_IN.encode()}
