"""A backbone's BatchNorm made trainable, frozen or synchronized."""

import torch
from detectron2.utils import comm
from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
from torch import nn

from querypose.errors import UserError

# the names of MODEL.RESNETS.NORM
BATCH_NORM_MODES = ("BN", "FrozenBN", "SyncBN")


def set_batch_norm(model: nn.Module, mode: str, key: str) -> None:
    """Convert every BatchNorm2d inside `model`, in place; names and values of its weights stay.

    Args:
        mode: "BN" leaves them as they are; "FrozenBN": running statistics, scale and shift become constants (buffers)
            in training too; "SyncBN": batch statistics over all processes.
        key: the config key that holds the mode, for messages.

    Raises:
        UserError: an unknown mode, a model without BatchNorm, "SyncBN" for several processes without a GPU.
    """
    if mode not in BATCH_NORM_MODES:
        raise UserError(f"{key} is '{mode}'; valid are {', '.join(BATCH_NORM_MODES)}")
    if mode == "BN":
        return
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise UserError(f"{key} is '{mode}', but {type(model).__name__} has no BatchNorm; set it to BN")
    # timm's conversions and not Detectron2's or torch's: they keep the activation that timm's BatchNormAct2d holds
    if mode == "FrozenBN":
        freeze_batch_norm_2d(model)
        return
    if comm.get_world_size() > 1 and not torch.cuda.is_available():
        raise UserError(f"{key} 'SyncBN' works on GPUs only; train on one process or set it to BN or FrozenBN")
    convert_sync_batchnorm(model)
