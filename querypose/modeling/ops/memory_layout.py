"""The memory layout of images and convolution weights that is the faster one on a machine."""

import torch
from torch import nn

from querypose.errors import UserError


def use_channels_last(wanted: bool | None, device: str, backbone: nn.Module) -> bool:
    """Whether the model keeps its channels last.

    Args:
        wanted: MODEL.CHANNELS_LAST; None: where every model measured was faster for it, in training and in inference,
            which is on CPUs with AVX-512 (docs/BENCHMARKS.md).
        device: MODEL.DEVICE.
        backbone: the model's.

    Raises:
        UserError: True for a backbone whose training would end in a crash.
    """
    breaking = _breaking_convolution(backbone) if device == "cpu" else None
    if wanted is None:
        return device == "cpu" and breaking is None and torch.backends.cpu.get_cpu_capability() == "AVX512"
    if wanted and breaking is not None:
        raise UserError(
            f"MODEL.CHANNELS_LAST is True, but PyTorch crashes on a CPU in the backward pass of backbone.{breaking} (a "
            "strided 1x1 convolution of fewer than 16 channels); set it to None or False"
        )
    return wanted


def _breaking_convolution(backbone: nn.Module) -> str | None:
    """The name of a convolution whose gradient oneDNN writes past its end, if the channels are last (seen in 3.12)."""
    for name, module in backbone.named_modules():
        narrow = isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels < 16
        if narrow and module.kernel_size == (1, 1) and max(module.stride) > 1:
            return name
    return None
