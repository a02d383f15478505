"""torch.compile for modules of fixed shapes, and the way back where there is no compiler."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

logger = logging.getLogger(__name__)


def compile_module(module: nn.Module, mode: str) -> None:
    """Compile a module in place; if the compiler fails on it, warn once and run it uncompiled from then on.

    Errors of the module itself are raised. A copy of the module is not compiled. mode: of torch.compile.
    """
    module.compile(mode=mode)
    compiled: Any = module._compiled_call_impl

    def call(*args: Any) -> Any:
        try:
            outputs = compiled(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            logger.warning(
                "MODEL.COMPILE: the compiler failed (%s: %s); running without it", type(error).__name__, reason
            )
            module._compiled_call_impl = None
            return module(*args)
        # the next replay of a CUDA graph overwrites its outputs
        return tree_map_only(Tensor, Tensor.clone, outputs) if mode == "reduce-overhead" else outputs

    module._compiled_call_impl = call
