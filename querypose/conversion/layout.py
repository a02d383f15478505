"""What a checkpoint is: its tensors, the config that their shapes belong to, and whether they are all there."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

import safetensors.torch
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model
from torch import Tensor, nn

from querypose.atomic_io import check_output_file, whole_file, writing
from querypose.errors import UserError
from querypose.safe_loading import find_weights, read_checkpoint
from querypose.setup_config import setup_config

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
BOTTOM_UP = "backbone.bottom_up."

# BatchNorm's count of batches, which only a norm without momentum reads: old checkpoints and frozen norms have none
_COUNTER = "num_batches_tracked"

Shape = tuple[int, ...]


@dataclass
class Conversion:
    """A converted checkpoint and what there is to report about it."""

    state_dict: dict[str, Tensor]  # by our names
    dropped: dict[str, list[str]] = field(default_factory=dict)  # reason -> names of the tensors that were left out
    fresh: dict[str, list[str]] = field(default_factory=dict)  # what -> our names of those that the file lacks
    configs: list[str] = field(default_factory=list)  # files below `configs/` that describe it, the plainest first
    overrides: list[str] = field(default_factory=list)  # KEY, VALUE .. that those configs need
    notes: list[str] = field(default_factory=list)  # other sentences


def load_tensors(path: str, reasons: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The state dict in a checkpoint, and what was left out of it, see `find_weights` and `split_off`."""
    loaded, dropped = find_weights(read_checkpoint(path), path)
    kept, others = split_off(loaded, reasons)
    return kept, {**dropped, **others}


def split_off(
    tensors: Mapping[str, Tensor], reasons: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Leave out tensors; `reasons`: pattern of their names -> why. Returns the others, and reason -> names."""
    kept: dict[str, Tensor] = {}
    dropped: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        reason = next((reason for pattern, reason in reasons.items() if re.fullmatch(pattern, name)), None)
        if reason:
            dropped.setdefault(reason, []).append(name)
        else:
            kept[name] = tensor
    return kept, dropped


@dataclass(frozen=True)
class Layout:
    """The shipped configs nearest to a checkpoint, and the shapes of their model's tensors by our names."""

    configs: list[str]
    overrides: list[str]
    shapes: dict[str, Shape]

    @classmethod
    def closest(cls, settings: Mapping[str, object], prefix: str = "") -> "Layout":
        """The layout for `settings` (KEY: value), of the tensors alone whose names have the prefix."""
        configs, overrides = closest_configs(settings)
        cfg = setup_config(str(CONFIG_FOLDER / configs[0]), [*overrides, "MODEL.DEVICE", "meta"])
        with torch.device("meta"):
            model = nn.ModuleDict({"backbone": build_backbone(cfg)}) if prefix else build_model(cfg)
        tensors = model.state_dict().items()
        return cls(configs, overrides, {name: tuple(t.shape) for name, t in tensors if name.startswith(prefix)})

    def conversion(
        self,
        path: str,
        tensors: Mapping[str, Tensor],
        dropped: dict[str, list[str]],
        optional: Mapping[str, str] | None = None,
    ) -> Conversion:
        """The converted checkpoint; raise `UserError` with all tensors that are missing, unexpected or misshapen.

        tensors: by our names. dropped: reason -> names that were left out so far. optional: pattern of names that a
        checkpoint may lack, all or none of them -> what these are.
        """
        fresh: dict[str, list[str]] = {}
        for pattern, reason in (optional or {}).items():
            names = [name for name in self.shapes if re.fullmatch(pattern, name)]
            if names and tensors.keys().isdisjoint(names):
                fresh[reason] = names
        allowed = {name for names in fresh.values() for name in names}
        surplus = [name for name in tensors if name not in self.shapes]
        kept = {name: tensor for name, tensor in tensors.items() if name in self.shapes}
        faults = {
            "missing": [name for name in self.shapes if name not in kept and name not in allowed],
            "unexpected": surplus,
            "misshapen": [
                f"{name} {tuple(kept[name].shape)} instead of {shape}"
                for name, shape in self.shapes.items()
                if name in kept and kept[name].shape != shape
            ],
        }
        faults = {kind: [name for name in names if not name.endswith(_COUNTER)] for kind, names in faults.items()}
        if any(faults.values()):
            listed = [f"{len(names)} {kind} ({enumerate_names(names)})" for kind, names in faults.items() if names]
            raise UserError(f"{path} does not hold exactly the tensors of its model: {'; '.join(listed)}")
        if surplus:
            dropped = {**dropped, f"{_COUNTER}: frozen norms count no batches": surplus}
        return Conversion(kept, dropped, fresh, self.configs, self.overrides)


def closest_configs(settings: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """The shipped configs that need fewest overrides, the plainest first, and the `KEY`, `VALUE` .. of these."""
    candidates = {
        name: {key: value for key, value in settings.items() if attrgetter(key)(cfg) != value}
        for name, cfg in _shipped_configs().items()
        if cfg.MODEL.BACKBONE.NAME == settings["MODEL.BACKBONE.NAME"]
    }
    overrides = min(candidates.values(), key=len)
    names = [name for name, other in candidates.items() if other == overrides]
    return names, [text for key, value in overrides.items() for text in (key, str(value))]


@functools.cache
def _shipped_configs() -> dict[str, CfgNode]:
    """Those for COCO's skeleton, by name, the plainest first."""
    if not CONFIG_FOLDER.is_dir():
        raise UserError(f"converting needs the project's folder {CONFIG_FOLDER}; run it in a checkout of QueryPose")
    files = [*CONFIG_FOLDER.glob("querypose_*.yaml"), *CONFIG_FOLDER.glob("50_queries/querypose_*.yaml")]
    names = [path.relative_to(CONFIG_FOLDER).as_posix() for path in files]
    return {name: setup_config(str(CONFIG_FOLDER / name)) for name in sorted(names, key=lambda name: (len(name), name))}


def shape_of(state_dict: Mapping[str, Tensor], pattern: str) -> Shape:
    """The shape of the first tensor whose whole name matches; a `UserError` if there is none."""
    for name, tensor in state_dict.items():
        if re.fullmatch(pattern, name):
            return tuple(tensor.shape)
    shown = pattern.replace(r"\d+", "*").replace("\\", "")
    raise UserError(f"the checkpoint is not complete: it has no tensor {shown}")


def number_of(state_dict: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest index that the pattern's group finds; 0 where no name matches."""
    found = (re.fullmatch(pattern, name) for name in state_dict)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def enumerate_names(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def publishable_weights(path: str) -> Conversion:
    """The tensors of one of our training checkpoints that inference needs, floating ones in half precision."""
    tensors, dropped = load_tensors(path, {r"criterion\..+": "the losses (criterion), which inference does not need"})
    return Conversion(_in_type(tensors, torch.float16), dropped)


def backbone_of(path: str) -> Conversion:
    """The backbone and its FPN of one of our checkpoints, in float32, for any model with the same backbone."""
    tensors, dropped = load_tensors(path, {r"(?!backbone\.).+": "what is not of the backbone"})
    if not tensors:
        raise UserError(f"{path} has no tensor named backbone.*; give a checkpoint or weights of a QueryPose")
    return Conversion(_in_type(tensors, torch.float32), dropped)


def _in_type(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def save_weights(state_dict: dict[str, Tensor], path: str, author: str) -> None:
    """Write weights atomically, never over another file; in PyTorch's format unless `path` ends in `.safetensors`."""
    check_output_file(path)
    with writing(path, "name another file"), whole_file(path) as file:
        if path.endswith(".safetensors"):
            file.write(safetensors.torch.save({name: tensor.contiguous() for name, tensor in state_dict.items()}))
        else:
            torch.save({"model": state_dict, "__author__": author}, file)
