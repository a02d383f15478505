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
    """Detectron2's groups of trainable parameters, by learning rate and weight decay, with the two multipliers."""
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    multipliers = {"backbone.": solver.BACKBONE_MULTIPLIER, "criterion.keypoint_loss.flow.": solver.FLOW_MULTIPLIER}
    names = {parameter: name for name, parameter in model.named_parameters()}
    single = [{**group, "params": [parameter]} for group in groups for parameter in group["params"]]
    for group in single:
        for prefix, multiplier in multipliers.items():
            if names[group["params"][0]].startswith(prefix):
                group["lr"] *= multiplier
    return reduce_param_groups(single)


def clip_gradients(parameters: Sequence[nn.Parameter], clip: CfgNode) -> Tensor:
    """Scale gradients in place by SOLVER.CLIP_GRADIENTS, and return the norm of all of them together before it."""
    largest = clip.CLIP_VALUE if clip.ENABLED else math.inf
    return nn.utils.clip_grad_norm_(parameters, largest, norm_type=clip.NORM_TYPE)
