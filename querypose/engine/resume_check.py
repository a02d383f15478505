"""Whether a checkpoint can be resumed with a config: differences are refused, or applied and logged."""

import logging
import re
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from torch import nn

from querypose.config_checks import leaves
from querypose.errors import UserError

logger = logging.getLogger(__name__)

# below MODEL the keys whose values may change on resume; of all others those that may not, as they decide on the
# optimizer's parameter groups
FREE_MODEL_KEYS = re.compile(
    r"MODEL\.(CHANNELS_LAST|COMPILE|DEVICE|WEIGHTS|ROI_KEYPOINT_HEAD\.MIN_KEYPOINTS_PER_IMAGE|SWIN\.STOCHASTIC_DEPTH|.*ACTIVATION_CHECKPOINTING)"
    r"|MODEL\.QUERYPOSE\.(LOSS\..*|TEST\..*|TRAIN_QUERIES|SKELETON\.LIMBS|SKELETON\.SIGMAS)"
)
FIXED_KEYS = re.compile(r"SOLVER\.(OPTIMIZER|\w+_MULTIPLIER|BIAS_LR_FACTOR|WEIGHT_DECAY_BIAS|WEIGHT_DECAY_NORM)")


def check_resumable(
    path: str, checkpoint: dict[str, Any], cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Raise a UserError unless the run can resume from a checkpoint of `PoseTrainer`; log changed settings.

    Tensors are compared too, as older checkpoints hold no config.
    """
    advice = f"leave --resume out and give MODEL.WEIGHTS {path} and another OUTPUT_DIR"
    state = checkpoint.get("trainer", {})
    if "_trainer" not in state:
        raise UserError(f"{path} contains weights only, so a run cannot resume from it; {advice} to start a new run")
    before, now = (dict(leaves(CfgNode(yaml.safe_load(text)))) for text in (state.get("config", "{}"), cfg.dump()))
    keys = [key for key in now if before.get(key, now[key]) != now[key]]
    changed = {key: f"{key} {before[key]!r:.200} -> {now[key]!r:.200}" for key in keys}
    refused = [
        text
        for key, text in changed.items()
        if FIXED_KEYS.fullmatch(key) or (key.startswith("MODEL.") and not FREE_MODEL_KEYS.fullmatch(key))
    ]
    if not refused:
        current, saved = model.state_dict(), checkpoint["model"]
        shapes = {name: (tuple(saved[name].shape), tuple(current[name].shape)) for name in current if name in saved}
        refused = [f"{name} {old} -> {new}" for name, (old, new) in shapes.items() if old != new]
        groups = state["_trainer"]["optimizer"]["param_groups"], optimizer.param_groups
        old, new = ([len(group["params"]) for group in one] for one in groups)
        if old != new:
            refused.append(f"numbers of tensors in the parameter groups {old} -> {new}")
    if refused:
        shown = "; ".join(refused[:5]) + (" .." if len(refused) > 5 else "")
        raise UserError(
            f"the run in {path} cannot be resumed with another config (checkpoint -> config): {shown}; to start a new "
            f"run from its weights, {advice}"
        )
    done = checkpoint.get("iteration", -1) + 1
    if done > cfg.SOLVER.MAX_ITER:
        most = f"SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}; raise it to continue"
        raise UserError(f"the run in {path} has already done {done} iterations, and {most}")
    texts = [text for key, text in changed.items() if key not in ("OUTPUT_DIR", "MODEL.WEIGHTS", "SEED")]
    if texts:
        logger.warning("Resuming with settings that differ (checkpoint -> config): %s", "; ".join(texts))
