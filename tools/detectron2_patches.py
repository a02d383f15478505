"""What Detectron2 v0.6 needs to run on current Python, PyTorch, numpy, Pillow and setuptools.

`PATCHES` are textual changes, each with its reason and the number of places where it applies; `STAND_IN` is a
module in the place of the compiled operators. Used by install_detectron2.py; needs nothing but Python.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Patch:
    """One textual change of Detectron2's source.

    Attributes:
        reason: why Detectron2 v0.6 needs it.
        pattern: regular expression (multi-line) of what is replaced.
        replacement: its substitution, as for `re.sub`.
        count: how many occurrences v0.6 has; any other number is an error.
        file: the one file (path inside the wheel) to change, or "" for every Python file.
    """

    reason: str
    pattern: str
    replacement: str
    count: int
    file: str = ""


PATCHES = (
    Patch(
        reason="numpy 1.24 removed its aliases of Python's own types",
        pattern=r"\bnp\.(bool|int|float|str)\b",
        replacement=r"\1",
        count=19,
    ),
    Patch(
        reason="Pillow 10 removed the constant LINEAR, another name of BILINEAR",
        pattern=r"\bImage\.LINEAR\b",
        replacement="Image.BILINEAR",
        count=1,
        file="detectron2/data/transforms/transform.py",
    ),
    Patch(
        reason="setuptools 81 removed pkg_resources",
        pattern=r"^import pkg_resources$",
        replacement="import importlib.resources",
        count=1,
        file="detectron2/model_zoo/model_zoo.py",
    ),
    Patch(
        reason="setuptools 81 removed pkg_resources",
        pattern=r"pkg_resources\.resource_filename\(\n"
        r"\s*\"detectron2\.model_zoo\", os\.path\.join\(\"configs\", config_path\)\n\s*\)",
        replacement='str(importlib.resources.files("detectron2.model_zoo").joinpath("configs", config_path))',
        count=1,
        file="detectron2/model_zoo/model_zoo.py",
    ),
    Patch(
        reason="torch warns about meshgrid without an explicit indexing",
        pattern=r"torch\.meshgrid\(shifts_y, shifts_x\)",
        replacement='torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        count=1,
        file="detectron2/modeling/anchor_generator.py",
    ),
    Patch(
        reason="PyTorch 2 has no Caffe2; without this nothing in detectron2.export could be imported",
        pattern=r"^from \.api import \*$",
        replacement="try:\n    from .api import *\nexcept ModuleNotFoundError:  # no Caffe2\n    pass",
        count=1,
        file="detectron2/export/__init__.py",
    ),
    Patch(
        reason="COCOeval_opt needs compiled operators; evaluators that ask for it get the official COCOeval",
        pattern=r"^from detectron2\.evaluation\.fast_eval_api import COCOeval_opt$",
        replacement="COCOeval_opt = COCOeval",
        count=1,
        file="detectron2/evaluation/coco_evaluation.py",
    ),
    Patch(
        reason="torch.jit.script is deprecated and warns; scripting a model scripts these classes as well",
        pattern=r"^@torch\.jit\.script\n",
        replacement="",
        count=2,
        file="detectron2/modeling/box_regression.py",
    ),
    Patch(
        reason="numpy 2 refuses copy=False where a copy is needed",
        pattern=r"np\.array\(mask, copy=False\)",
        replacement="np.asarray(mask)",
        count=1,
        file="detectron2/layers/mask_ops.py",
    ),
    Patch(
        reason="Logger.warn is deprecated",
        pattern=r"logger\.warn\(",
        replacement="logger.warning(",
        count=9,
    ),
)

# Detectron2 imports `detectron2._C` wherever an operator may need it. The stand-in lets those modules load
# and says what is missing when such an operator is used. `collect_env`, run at the start of every training,
# asks for the three facts at its top.
STAND_IN_PATH = "detectron2/_C.py"
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
    """Apply one patch to `files` in place.

    Raises:
        ValueError: the pattern does not occur exactly `patch.count` times.
    """
    total = 0
    for name in [patch.file] if patch.file else [name for name in files if name.endswith(".py")]:
        content = files.get(name, b"").decode("utf-8")
        text, found = re.subn(patch.pattern, patch.replacement, content, flags=re.MULTILINE)
        if found:
            files[name] = text.encode("utf-8")
        total += found
    if total != patch.count:
        raise ValueError(
            f"the patch '{patch.reason}' found {total} places instead of {patch.count} in "
            f"{patch.file or 'Detectron2'}: this is not Detectron2 v0.6"
        )


def patched_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files of the wheel: those of the source distribution, patched, and the `_C` stand-in."""
    files = dict(files)
    for patch in PATCHES:
        apply_patch(files, patch)
    return {**files, STAND_IN_PATH: STAND_IN.encode("utf-8")}
