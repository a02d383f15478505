"""Optimizers in a registry, parameter groups as the paper trains them, and gradient clipping."""

import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
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
def ADAMW(cfg: CfgNode, groups: list[dict]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, fused=True)


@OPTIMIZER_REGISTRY.register()
def SGD(cfg: CfgNode, groups: list[dict]) -> torch.optim.Optimizer:
    solver = cfg.SOLVER
    return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, fused=True)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `SOLVER` describes; a UserError for a name that is not registered."""
    name = cfg.SOLVER.OPTIMIZER
    if name not in OPTIMIZER_REGISTRY:
        valid = ", ".join(sorted(known for known, _ in OPTIMIZER_REGISTRY))
        raise UserError(f"SOLVER.OPTIMIZER is '{name}'; valid are {valid}")
    return OPTIMIZER_REGISTRY.get(name)(cfg, parameter_groups(cfg, model))


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Trainable parameters in one group per pair of learning rate and weight decay.

    Detectron2's rules for norms and biases; then BACKBONE_MULTIPLIER for `backbone` and FLOW_MULTIPLIER for the losses'
    flow.
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
    multipliers = {"backbone.": solver.BACKBONE_MULTIPLIER, "criterion.keypoint_loss.flow.": solver.FLOW_MULTIPLIER}
    factors = {
        parameter: next((factor for prefix, factor in multipliers.items() if name.startswith(prefix)), 1.0)
        for name, parameter in model.named_parameters()
    }
    return reduce_param_groups(
        [
            {**group, "params": [parameter], "lr": group["lr"] * factors[parameter]}
            for group in groups
            for parameter in group["params"]
        ]
    )


class GradientClipper:
    """Clips gradients in place, as SOLVER.CLIP_GRADIENTS says, and returns the norm of the whole gradient before it."""

    @configurable
    def __init__(self, *, clip_type: str | None = None, clip_value: float = math.inf, norm_type: float = 2.0):
        """
        Args:
            clip_type: "full_model": by the norm of all gradients together (the paper); "norm": by that of each
                parameter's gradient; "value": each number; None: nothing.
            clip_value: the largest norm, or absolute value, that is left as it is.
            norm_type: which norm.
        """
        self.clip_type = clip_type
        self.clip_value = clip_value
        self.norm_type = norm_type

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        clip = cfg.SOLVER.CLIP_GRADIENTS
        clip_type = clip.CLIP_TYPE if clip.ENABLED else None
        return {"clip_type": clip_type, "clip_value": clip.CLIP_VALUE, "norm_type": clip.NORM_TYPE}

    def __call__(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        largest = self.clip_value if self.clip_type == "full_model" else math.inf
        norm = nn.utils.clip_grad_norm_(parameters, largest, norm_type=self.norm_type)
        if self.clip_type == "value":
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        elif self.clip_type == "norm":
            for parameter in parameters:
                nn.utils.clip_grad_norm_(parameter, self.clip_value, norm_type=self.norm_type)
        return norm
