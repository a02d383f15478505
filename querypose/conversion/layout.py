"""What a checkpoint is: its tensors, the config that they belong to, and whether they are all there."""

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

from querypose.atomic_io import whole_file, writing
from querypose.errors import UserError
from querypose.safe_loading import find_weights, read_checkpoint
from querypose.setup_config import setup_config

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
BOTTOM_UP = "backbone.bottom_up."

# BatchNorm's count of batches, which only a norm without momentum reads: old checkpoints and frozen norms have none
_COUNTER = "num_batches_tracked"


@dataclass
class Conversion:
    """A converted checkpoint and what there is to report about it."""

    state_dict: dict[str, Tensor]  # by our names
    dropped: dict[str, list[str]] = field(default_factory=dict)  # reason -> names of the tensors that were left out
    fresh: dict[str, list[str]] = field(default_factory=dict)  # what -> our names of those that the file lacks
    interpolated: dict[str, list[str]] = field(default_factory=dict)  # what -> our names
    config: str = ""  # the file below `configs/` that describes it
    overrides: list[str] = field(default_factory=list)  # KEY, VALUE .. that the config needs


def load_tensors(path: str, reasons: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The state dict in a checkpoint, and what was left out of it, see `find_weights` and `split_off`."""
    return split_off(find_weights(read_checkpoint(path), path), reasons)


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
    """The shipped config nearest to a checkpoint, and its model's tensors by our names, on the meta device."""

    config: str
    overrides: list[str]
    tensors: dict[str, Tensor]

    @classmethod
    def closest(cls, settings: Mapping[str, object], prefix: str = "") -> "Layout":
        """The layout of the config that needs fewest overrides for `settings` (KEY: value), the plainest of these.

        prefix: what the names of its tensors begin with; others are left out.
        """
        candidates = {
            name: {key: value for key, value in settings.items() if attrgetter(key)(cfg) != value}
            for name, cfg in _shipped_configs().items()
            if cfg.MODEL.BACKBONE.NAME == settings["MODEL.BACKBONE.NAME"]
        }
        config = min(candidates, key=lambda name: len(candidates[name]))
        overrides = [text for key, value in candidates[config].items() for text in (key, str(value))]
        cfg = setup_config(str(CONFIG_FOLDER / config), [*overrides, "MODEL.DEVICE", "meta"])
        with torch.device("meta"):
            model = nn.ModuleDict({"backbone": build_backbone(cfg)}) if prefix else build_model(cfg)
        tensors = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefix)}
        return cls(config, overrides, tensors)

    def conversion(
        self,
        path: str,
        tensors: Mapping[str, Tensor],
        dropped: dict[str, list[str]],
        optional: Mapping[str, str] | None = None,
    ) -> Conversion:
        """The converted checkpoint; raise `UserError` with all tensors that are missing, unexpected or misshapen.

        tensors: by our names. dropped: reason -> names that were left out so far. optional: pattern of names that a
        checkpoint may lack -> what these are.
        """
        lacking = {
            name: tensor for name, tensor in self.tensors.items() if name not in tensors and not name.endswith(_COUNTER)
        }
        missing, fresh = split_off(lacking, optional or {})
        surplus = [name for name in tensors if name not in self.tensors]
        kept = {name: tensor for name, tensor in tensors.items() if name in self.tensors}
        faults = {
            "missing": list(missing),
            "unexpected": [name for name in surplus if not name.endswith(_COUNTER)],
            "misshapen": [
                f"{name} {tuple(tensor.shape)} instead of {tuple(self.tensors[name].shape)}"
                for name, tensor in kept.items()
                if tensor.shape != self.tensors[name].shape
            ],
        }
        if any(faults.values()):
            listed = [f"{len(names)} {kind} ({_first(names)})" for kind, names in faults.items() if names]
            raise UserError(f"{path} does not hold exactly the tensors of its model: {'; '.join(listed)}")
        if surplus:
            dropped = {**dropped, f"{_COUNTER}: frozen norms count no batches": surplus}
        return Conversion(kept, dropped, fresh, config=self.config, overrides=self.overrides)


@functools.cache
def _shipped_configs() -> dict[str, CfgNode]:
    """Those for COCO's skeleton, by name, the plainest first."""
    if not CONFIG_FOLDER.is_dir():
        raise UserError(f"converting needs the project's folder {CONFIG_FOLDER}; run it in a checkout of QueryPose")
    files = [*CONFIG_FOLDER.glob("querypose_*.yaml"), *CONFIG_FOLDER.glob("50_queries/querypose_*.yaml")]
    names = [path.relative_to(CONFIG_FOLDER).as_posix() for path in files]
    return {name: setup_config(str(CONFIG_FOLDER / name)) for name in sorted(names, key=lambda name: (len(name), name))}


def _first(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def publishable_weights(path: str) -> Conversion:
    """The model of one of our training checkpoints, floating tensors in half precision.

    The losses' own parameters stay: fine-tuning with an untrained flow would harm the model.
    """
    tensors = find_weights(read_checkpoint(path), path)
    if not any(name.startswith("decoder.") for name in tensors):
        raise UserError(f"{path} has no tensor named decoder.*; give a checkpoint of a QueryPose")
    return Conversion(_in_type(tensors, torch.float16), dropped={})


def backbone_of(path: str) -> Conversion:
    """The backbone and its FPN of one of our checkpoints, in float32, for any model with the same backbone."""
    tensors, dropped = load_tensors(path, {r"(?!backbone\.).+": "what is not of the backbone"})
    if not tensors:
        raise UserError(f"{path} has no tensor named backbone.*; give a checkpoint or weights of a QueryPose")
    return Conversion(_in_type(tensors, torch.float32), dropped)


def _in_type(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def save_weights(state_dict: dict[str, Tensor], path: str) -> None:
    """Write weights atomically; in PyTorch's format unless `path` ends in `.safetensors`."""
    if not_finite := [name for name, tensor in state_dict.items() if not tensor.isfinite().all()]:
        raise UserError(f"not written: {_first(not_finite)} would hold NaN or infinity; give other weights")
    with writing(path, "name another file"), whole_file(path) as file:
        if path.endswith(".safetensors"):
            # clones, as its tensors must not share memory
            tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state_dict.items()}
            file.write(safetensors.torch.save(tensors))
        else:
            torch.save({"model": state_dict}, file)
