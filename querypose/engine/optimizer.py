"""The paper's optimiser with few parameter groups; the norm of the whole gradient clips it, or leaves a step out."""

import math

import torch
from detectron2.config import CfgNode
from torch import nn

from querypose.errors import UserError

_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LocalResponseNorm,
)


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float | None = None,
    weight_decay_bias: float | None = None,
    backbone_multiplier: float = 1.0,
    flow_multiplier: float = 10.0,
) -> list[dict]:
    """Trainable parameters in one group per pair of learning rate and weight decay.

    Args:
        weight_decay_norm, weight_decay_bias: decay of normalisation layers and of biases; None: as the rest.
        backbone_multiplier, flow_multiplier: learning rates of the backbone and of the flow over `base_lr`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            lr = base_lr
            if module_name.split(".")[0] == "backbone":
                lr *= backbone_multiplier
            elif module_name.startswith("criterion.keypoint_loss.flow"):
                lr *= flow_multiplier
            decay = weight_decay
            if isinstance(module, _NORMS) and weight_decay_norm is not None:
                decay = weight_decay_norm
            elif name.endswith("bias") and weight_decay_bias is not None:
                decay = weight_decay_bias
            groups.setdefault((lr, decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD as `SOLVER` says, fused where the parameters' device has it.

    Raises:
        UserError: an optimiser or a kind of clipping that there is not.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
        flow_multiplier=solver.FLOW_MULTIPLIER,
    )
    name = solver.OPTIMIZER.upper()
    if name == "ADAMW":
        optimizer = _guarded(cfg, torch.optim.AdamW)(groups, lr=solver.BASE_LR, fused=True)
    elif name == "SGD":
        optimizer = _guarded(cfg, torch.optim.SGD)(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, fused=True
        )
        if solver.MOMENTUM:
            # PyTorch would start it with the first step, and with memory that nobody has filled if that is left out
            for group in groups:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    else:
        raise UserError(f"SOLVER.OPTIMIZER is '{solver.OPTIMIZER}'; valid are ADAMW, SGD")
    return optimizer


def _guarded(cfg: CfgNode, optimizer_class: type) -> type:
    """The class, its steps clipped by the norm of all gradients together, and without effect if that is not finite.

    After a step `gradient_norm` is the norm before clipping and `found_inf` 1.0 if the step was without effect, else
    0.0: tensors on the device, which does not wait for anyone to read them.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != "full_model":
        raise UserError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{clip.CLIP_TYPE}'; valid is full_model, or ENABLED False")
    largest = clip.CLIP_VALUE if clip.ENABLED else math.inf

    class Guarded(optimizer_class):
        def step(self, closure=None):
            parameters = [p for group in self.param_groups for p in group["params"]]
            self.gradient_norm = nn.utils.clip_grad_norm_(parameters, largest, norm_type=clip.NORM_TYPE)
            # PyTorch's fused optimisers read this name, as gradient scalers set it
            self.found_inf = (~self.gradient_norm.isfinite()).float()
            return super().step(closure)

    return Guarded
