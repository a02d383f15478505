"""Whether a checkpoint can be resumed with a config: differences are refused, or applied and logged."""

import logging
import reprlib
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from torch import nn

from querypose.errors import UserError

logger = logging.getLogger(__name__)

# Keys that another value may replace on resume, of those below MODEL; a node stands for all of its keys.
FREE_MODEL_KEYS = (
    "MODEL.CHANNELS_LAST",
    "MODEL.COMPILE",
    "MODEL.DEVICE",
    "MODEL.QUERYPOSE.LOSS",
    "MODEL.QUERYPOSE.SKELETON.LIMBS",
    "MODEL.QUERYPOSE.SKELETON.SIGMAS",
    "MODEL.QUERYPOSE.TEST",
    "MODEL.QUERYPOSE.TRAIN_QUERIES",
    "MODEL.ROI_KEYPOINT_HEAD",
    "MODEL.SWIN.STOCHASTIC_DEPTH",
    "MODEL.WEIGHTS",
)
# Keys that it may not, of all others: they decide which optimizer and which parameter groups there are.
FIXED_KEYS = (
    "SOLVER.OPTIMIZER",
    "SOLVER.BACKBONE_MULTIPLIER",
    "SOLVER.FLOW_MULTIPLIER",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "SOLVER.WEIGHT_DECAY_NORM",
)
_MOST_SHOWN = 5
_SHORT = reprlib.Repr()
_SHORT.maxlist, _SHORT.maxstring = 3, 80


def check_resumable(
    path: str, checkpoint: dict[str, Any], cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Compare a checkpoint with the run that is to resume from it, and log the settings that have changed.

    Args:
        path: of the checkpoint, for messages.
        checkpoint: its content, as `PoseTrainer` saves it; older ones hold no config, and their tensors are compared.
        cfg, model, optimizer: of the run.

    Raises:
        UserError: weights alone; another model, skeleton or optimizer; or more iterations than SOLVER.MAX_ITER.
    """
    advice = f"leave --resume out and give MODEL.WEIGHTS {path} and another OUTPUT_DIR"
    if "trainer" not in checkpoint:
        raise UserError(f"{path} contains weights only, so a run cannot resume from it; {advice} to start a new run")
    state = checkpoint["trainer"]
    before, now = _flat(yaml.safe_load(state.get("config", "{}"))), _flat(yaml.safe_load(cfg.dump()))
    changed = {key: _change(key, before[key], now[key]) for key in now if before.get(key, now[key]) != now[key]}
    # the names first: parts and flip pairs follow from them
    keys = sorted(changed, key=lambda key: not key.endswith("KEYPOINT_NAMES"))
    refused = [changed[key] for key in keys if not _is_free(key)]
    if not refused:
        current, saved = model.state_dict(), checkpoint["model"]
        shapes = {name: (tuple(saved[name].shape), tuple(current[name].shape)) for name in current if name in saved}
        refused = [_change(name, *pair) for name, pair in shapes.items() if pair[0] != pair[1]]
        refused += _group_differences(state, optimizer)
    if refused:
        shown = "; ".join(refused[:_MOST_SHOWN]) + (" .." if len(refused) > _MOST_SHOWN else "")
        raise UserError(
            f"the run in {path} cannot be resumed with another config (checkpoint -> config): {shown}; to start a new "
            f"run from its weights, {advice}"
        )
    done = checkpoint.get("iteration", -1) + 1
    if done > cfg.SOLVER.MAX_ITER:
        raise UserError(
            f"the run in {path} has already done {done} iterations, and SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}; "
            "raise it to continue"
        )
    texts = [text for key, text in changed.items() if key not in ("OUTPUT_DIR", "MODEL.WEIGHTS", "SEED")]
    if texts:
        logger.warning("Resuming with settings that differ (checkpoint -> config): %s", "; ".join(texts))


def _is_free(key: str) -> bool:
    free = any(key == other or key.startswith(f"{other}.") for other in FREE_MODEL_KEYS)
    return free or key.endswith(".ACTIVATION_CHECKPOINTING") or not (key.startswith("MODEL.") or key in FIXED_KEYS)


def _group_differences(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> list[str]:
    current = [len(group["params"]) for group in optimizer.param_groups]
    groups = state["_trainer"]["optimizer"]["param_groups"] if "_trainer" in state else optimizer.param_groups
    saved = [len(group["params"]) for group in groups]
    return [] if saved == current else [_change("numbers of tensors in the parameter groups", saved, current)]


def _change(name: str, before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list):  # from the first difference on
        pairs = enumerate(zip(before, now, strict=False))
        same = next((i for i, (old, new) in pairs if old != new), min(len(before), len(now)))
        name, before, now = f"{name}[{same}:]" if same else name, before[same:], now[same:]
    return f"{name} {_SHORT.repr(before)} -> {_SHORT.repr(now)}"


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as `A.B.C`."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
