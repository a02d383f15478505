"""What a checkpoint is: the config that its tensors' shapes belong to, and whether they are all there."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model
from torch import Tensor, nn

from querypose.errors import UserError
from querypose.setup_config import setup_config

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"

# the configs for COCO's skeleton
_COCO = ("querypose_*.yaml", "50_queries/querypose_*.yaml")

Shape = tuple[int, ...]

COUNTERS = "num_batches_tracked: frozen norms count no batches"


def shape_of(state_dict: Mapping[str, Tensor], pattern: str) -> Shape:
    """The shape of the first tensor whose whole name matches.

    Raises:
        UserError: there is none.
    """
    for name, tensor in state_dict.items():
        if re.fullmatch(pattern, name):
            return tuple(tensor.shape)
    shown = pattern.replace(r"\d+", "*").replace("\\", "")
    raise UserError(f"the checkpoint is not complete: it has no tensor {shown}")


def number_of(state_dict: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest index that the pattern's group finds; 0 where no name matches."""
    found = (re.fullmatch(pattern, name) for name in state_dict)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def closest_configs(settings: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """The shipped configs nearest to `settings` (KEY: value), and the `KEY`, `VALUE` .. that they still need.

    Returns:
        names of files below `configs/` that need the same, fewest overrides; the plainest first.

    Raises:
        UserError: no shipped config has this backbone.
    """
    if not CONFIG_FOLDER.is_dir():
        raise UserError(f"converting needs the project's folder {CONFIG_FOLDER}; run it in a checkout of QueryPose")
    candidates = []
    files = [path.relative_to(CONFIG_FOLDER).as_posix() for pattern in _COCO for path in CONFIG_FOLDER.glob(pattern)]
    for name in sorted(files, key=lambda name: (len(name), name)):
        cfg = setup_config(str(CONFIG_FOLDER / name))
        if cfg.MODEL.BACKBONE.NAME == settings["MODEL.BACKBONE.NAME"]:
            other = {key: value for key, value in settings.items() if not _same(_get(cfg, key), value)}
            candidates.append((name, other))
    if not candidates:
        raise UserError(f"no config in {CONFIG_FOLDER} has the backbone {settings['MODEL.BACKBONE.NAME']}")
    fewest = min(len(other) for _, other in candidates)
    _, overrides = next(candidate for candidate in candidates if len(candidate[1]) == fewest)
    names = [name for name, other in candidates if other == overrides]
    return names, [text for key, value in overrides.items() for text in (key, str(value))]


def expected_shapes(config: str, overrides: list[str], prefix: str = "") -> dict[str, Shape]:
    """Names and shapes of the tensors of the model that a config below `configs/` describes.

    Nothing is allocated. A prefix that starts with "backbone." gives only the tensors below it, without it.
    """
    cfg = setup_config(str(CONFIG_FOLDER / config), [*overrides, "MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = nn.ModuleDict({"backbone": build_backbone(cfg)}) if prefix else build_model(cfg)
    tensors = model.state_dict().items()
    return {name[len(prefix) :]: tuple(tensor.shape) for name, tensor in tensors if name.startswith(prefix)}


def check_tensors(path: str, given: Mapping[str, Tensor], expected: Mapping[str, Shape]) -> None:
    """Raise a UserError that lists what is missing, unexpected or misshapen; nothing is let through.

    BatchNorm's counters `num_batches_tracked` are exempt: old checkpoints lack them, frozen norms have none.
    """
    missing = [name for name in expected if name not in given and not is_counter(name)]
    unexpected = [name for name in given if name not in expected and not is_counter(name)]
    misshapen = [
        f"{name} {tuple(given[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
    faults = [f"{len(names)} {kind} ({enumerate_names(names)})" for kind, names in kinds if names]
    if faults:
        raise UserError(
            f"the checkpoint '{path}' does not hold exactly the tensors of its model: {'; '.join(faults)}; "
            "convert a complete, unchanged checkpoint"
        )


def is_counter(name: str) -> bool:
    """Whether it is a BatchNorm's count of batches, which only a norm without momentum reads."""
    return name.endswith("num_batches_tracked")


def align_counters(state_dict: dict[str, Tensor], expected: Iterable[str], dropped: dict[str, list[str]]) -> None:
    """Make the counters those of `expected`, in place: surplus ones go, missing ones start at zero."""
    surplus = [name for name in state_dict if is_counter(name) and name not in expected]
    for name in surplus:
        del state_dict[name]
    if surplus:
        dropped[COUNTERS] = surplus
    for name in expected:
        if is_counter(name):
            state_dict.setdefault(name, torch.zeros((), dtype=torch.int64))


def enumerate_names(names: list[str], most: int = 20) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _get(cfg: CfgNode, key: str):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _same(value, other) -> bool:
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return list(value) == list(other)
    return value == other
