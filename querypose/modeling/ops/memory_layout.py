"""The memory layout of images and convolution weights that is the faster one on a machine."""

import torch
from torch import nn


def use_channels_last(wanted: bool | None, device: str, backbone: nn.Module) -> bool:
    """Whether the model keeps its channels last, by MODEL.CHANNELS_LAST and MODEL.DEVICE.

    None asks for it where every model measured was faster, in training and in inference: on CPUs with AVX-512
    (docs/BENCHMARKS.md).
    """
    # of these oneDNN 3.12 writes the gradient past its end, and crashes
    strided = any(
        module.kernel_size == (1, 1) and max(module.stride) > 1
        for module in backbone.modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels < 16
    )
    if wanted is None:
        wanted = device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wanted and not (device == "cpu" and strided)
