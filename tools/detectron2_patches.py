"""What Detectron2 v0.6 needs to run on current Python, PyTorch, numpy, Pillow and setuptools.

`PATCHES` are textual changes; `STAND_IN` is a module in the place of the compiled operators. Used by
install_detectron2.py; needs nothing but Python.
"""

import re
from typing import NamedTuple


class Patch(NamedTuple):
    file: str  # path below detectron2/; "": every Python file
    pattern: str  # multi-line regular expression
    replacement: str  # as of re.sub
    count: int = 1  # how many matches v0.6 has


PATCHES = (
    # numpy 1.24 removed its aliases of Python's own types
    Patch("", r"\bnp\.(bool|int|float|str)\b", r"\1", 19),
    # Logger.warn is deprecated
    Patch("", r"logger\.warn\(", "logger.warning(", 9),
    # Pillow 10 removed the constant LINEAR, another name of BILINEAR
    Patch("data/transforms/transform.py", r"\bImage\.LINEAR\b", "Image.BILINEAR"),
    # setuptools 81 removed pkg_resources
    Patch("model_zoo/model_zoo.py", r"^import pkg_resources$", "import importlib.resources"),
    Patch(
        "model_zoo/model_zoo.py",
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", os\.path\.join\("configs", config_path\)\s*\)',
        'str(importlib.resources.files("detectron2.model_zoo").joinpath("configs", config_path))',
    ),
    # torch warns about meshgrid without an explicit indexing
    Patch("modeling/anchor_generator.py", r"torch\.meshgrid\((\w+), (\w+)\)", r'torch.meshgrid(\1, \2, indexing="ij")'),
    # PyTorch 2 has no Caffe2; without this nothing in detectron2.export could be imported
    Patch(
        "export/__init__.py",
        r"^from \.api import \*$",
        "try:\n    from .api import *\nexcept ModuleNotFoundError:  # no Caffe2\n    pass",
    ),
    # COCOeval_opt needs compiled operators; evaluators that ask for it get the official COCOeval
    Patch("evaluation/coco_evaluation.py", r"^from .*fast_eval_api import COCOeval_opt$", "COCOeval_opt = COCOeval"),
    # torch.jit.script is deprecated and warns; scripting a model scripts these classes as well
    Patch("modeling/box_regression.py", r"^@torch\.jit\.script\n", "", 2),
    # numpy 2 refuses copy=False where a copy is needed
    Patch("layers/mask_ops.py", r"np\.array\(mask, copy=False\)", "np.asarray(mask)"),
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


def patched_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of the wheel, by path, patched and with `detectron2/_C.py`; a `ValueError` for another version's."""
    files = {**files, "detectron2/_C.py": STAND_IN.encode()}
    for file, pattern, replacement, count in PATCHES:
        total = 0
        for name in [f"detectron2/{file}"] if file else [name for name in files if name.endswith(".py")]:
            text, found = re.subn(pattern, replacement, files[name].decode(), flags=re.MULTILINE)
            files[name] = text.encode()
            total += found
        if total != count:
            where = file or "all files"
            raise ValueError(f"this is not Detectron2 v0.6: {total} matches of {pattern} instead of {count} in {where}")
    return files
