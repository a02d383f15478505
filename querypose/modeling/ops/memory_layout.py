"""The memory layout of images and convolution weights that is the faster one on a machine."""

import torch
from torch import nn

from querypose.errors import UserError


def use_channels_last(wanted: bool | None, device: str, backbone: nn.Module) -> bool:
    """Whether the model keeps its channels last, by MODEL.CHANNELS_LAST and MODEL.DEVICE.

    None asks for it where every model measured was faster, in training and in inference: on CPUs with AVX-512
    (docs/BENCHMARKS.md).
    """
    # of these oneDNN 3.12 writes the gradient past its end
    strided = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels < 16
        if module.kernel_size == (1, 1) and max(module.stride) > 1
    ]
    if wanted is None:
        return device == "cpu" and not strided and torch.backends.cpu.get_cpu_capability() == "AVX512"
    if wanted and strided and device == "cpu":
        raise UserError(
            f"MODEL.CHANNELS_LAST is True, but PyTorch crashes on a CPU in the backward pass of backbone.{strided[0]} "
            "(a strided 1x1 convolution of fewer than 16 channels); set it to None or False"
        )
    return wanted
