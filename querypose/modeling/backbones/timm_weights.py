"""timm's pretrained weights, by name, for the backbones that are made of timm's models."""

from typing import Any

import timm
from torch import Tensor, nn

from querypose.errors import UserError
from querypose.modeling.backbones.hrnet import HRNetBackbone
from querypose.modeling.backbones.timm_models import TimmBackbone


def load_timm_weights(backbone: nn.Module, name: str) -> None:
    """Fetch the pretrained weights `name`, such as hrnet_w32.ms_in1k, and load all of them into a backbone.

    The neck stays as it is. Raises `UserError` for weights that timm does not have or that do not fit.
    """
    title = f"MODEL.WEIGHTS is 'timm://{name}'"
    options: dict[str, Any] = {"features_only": True, "pretrained": True}
    target: Any = getattr(backbone, "bottom_up", None)
    if isinstance(backbone, HRNetBackbone):
        options["feature_location"] = ""
    elif isinstance(target, TimmBackbone):
        target = target.model
    else:
        raise UserError(f"{title}, but only build_hrnet_backbone and build_timm_fpn_backbone take timm's weights")
    if not timm.is_model(name.split(".")[0]):
        raise UserError(f"{title}, which timm does not know; timm.list_pretrained() gives the names")
    try:
        fetched = timm.create_model(name, out_indices=target.feature_info.out_indices, **options)
    except Exception as error:  # of the hub, of HTTP, of timm: each its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{title}, which timm cannot load ({reason}); without a network fill timm's cache") from error
    theirs, ours = _without_counters(fetched), _without_counters(target)
    if {key: tensor.shape for key, tensor in theirs.items()} != {key: tensor.shape for key, tensor in ours.items()}:
        raise UserError(f"{title}, which is another architecture than the backbone")
    target.load_state_dict(theirs, strict=False)


def _without_counters(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without BatchNorm's counters, which a pretrained model does not use and frozen norms lack."""
    return {key: tensor for key, tensor in model.state_dict().items() if not key.endswith("num_batches_tracked")}
