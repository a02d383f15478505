"""torch.compile for what has fixed shapes, and the way back where there is no compiler."""

import logging
from collections.abc import Callable

import torch
from torch import nn

logger = logging.getLogger(__name__)


class CompiledOrPlain:
    """A function, compiled at its first call; after the first failure of the compiled one, the function itself.

    The function must give the same result when it is called again.
    """

    def __init__(self, function: Callable, mode: str):
        """
        Args:
            function: of tensors.
            mode: of torch.compile: "default", "reduce-overhead".
        """
        self.function = function
        self.compiled = torch.compile(function, mode=mode)

    def __call__(self, *args):
        if self.compiled is None:
            return self.function(*args)
        try:
            return self.compiled(*args)
        except Exception as error:  # compilers fail in many ways
            result = self.function(*args)  # if this fails too, the fault is not the compiler's
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            logger.warning(
                "MODEL.COMPILE: the compiler failed (%s: %s); going on without it", type(error).__name__, reason
            )
            self.compiled = None
            return result


def compile_fixed_shapes(decoder: nn.Module, mode: str) -> None:
    """Compile, in place, what follows the pooling in every box stage and keypoint stage of the decoder.

    Their shapes depend on the number of images and queries only. Keypoint stages of a number of queries that changes
    from step to step (matched queries, a score floor) are compiled for any number.
    """
    for stage in decoder.box_stages:
        stage.refine = CompiledOrPlain(stage.refine, mode)
    for stage in decoder.keypoint_stages:
        if not hasattr(stage, "update"):  # a registered one of its own making
            continue
        stage.update = CompiledOrPlain(stage.update, mode)
