"""Optimizers in a registry, parameter groups as the paper trains them, and gradient clipping."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, reduce_param_groups
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from querypose.errors import UserError

OPTIMIZER_REGISTRY: Registry = Registry("OPTIMIZER")
OPTIMIZER_REGISTRY.__doc__ = """
Optimizers by the name that `SOLVER.OPTIMIZER` gives: functions (cfg, groups) -> torch.optim.Optimizer, where `groups`
are parameter groups with their own `lr` and `weight_decay`. Gradients are finite, and already clipped, when it steps.
"""


@OPTIMIZER_REGISTRY.register()
def ADAMW(cfg: CfgNode, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, fused=True)


@OPTIMIZER_REGISTRY.register()
def SGD(cfg: CfgNode, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    solver = cfg.SOLVER
    return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, fused=True)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `SOLVER` describes; a UserError for a name that is not registered."""
    name = cfg.SOLVER.OPTIMIZER
    if name not in OPTIMIZER_REGISTRY:
        valid = ", ".join(sorted(known for known, _ in OPTIMIZER_REGISTRY))
        raise UserError(f"SOLVER.OPTIMIZER is '{name}'; valid are {valid}")
    return OPTIMIZER_REGISTRY.get(name)(cfg, parameter_groups(cfg, model))


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in one group per pair of learning rate and weight decay.

    Detectron2's rules for norms and biases, then BACKBONE_MULTIPLIER and FLOW_MULTIPLIER.
    """
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    factors = dict.fromkeys(model.parameters(), 1.0)
    for name, parameter in model.named_parameters():
        if name.startswith("backbone."):
            factors[parameter] = solver.BACKBONE_MULTIPLIER
        elif name.startswith("criterion.keypoint_loss.flow."):
            factors[parameter] = solver.FLOW_MULTIPLIER
    return reduce_param_groups(
        [
            {**group, "params": [parameter], "lr": group["lr"] * factors[parameter]}
            for group in groups
            for parameter in group["params"]
        ]
    )


def clip_gradients(parameters: Sequence[nn.Parameter], clip: CfgNode) -> Tensor:
    """Clip gradients in place, and return the norm of the whole gradient before it.

    clip: SOLVER.CLIP_GRADIENTS, of which CLIP_TYPE is "full_model": by the norm of all gradients together (the paper);
    "norm": by that of each parameter's gradient; or "value": each number.
    """
    kind = clip.CLIP_TYPE if clip.ENABLED else "none"
    largest = clip.CLIP_VALUE if kind == "full_model" else math.inf
    norm = nn.utils.clip_grad_norm_(parameters, largest, norm_type=clip.NORM_TYPE)
    if kind == "value":
        nn.utils.clip_grad_value_(parameters, clip.CLIP_VALUE)
    elif kind == "norm":
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, norm_type=clip.NORM_TYPE)
    return norm
