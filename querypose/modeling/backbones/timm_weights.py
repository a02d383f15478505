"""timm's pretrained weights, by name, for the backbones that are made of timm's models."""

from typing import Any

import timm
import torch
from torch import nn

from querypose.errors import UserError
from querypose.modeling.backbones.hrnet import HRNetBackbone
from querypose.modeling.backbones.timm_models import TimmBackbone


def load_timm_weights(backbone: nn.Module, name: str) -> None:
    """Fetch the pretrained weights `name` (such as hrnet_w32.ms_in1k) and load them, all of them, into a backbone.

    Args:
        backbone: made by build_hrnet_backbone or build_timm_fpn_backbone; the neck stays as it is.
        name: a timm model, with or without the tag of its weights.

    Raises:
        UserError: another backbone; a name that timm does not have; no network and an empty cache; weights of another
            architecture.
    """
    title = f"MODEL.WEIGHTS is 'timm://{name}'"
    bottom_up: Any = getattr(backbone, "bottom_up", None)
    if isinstance(backbone, HRNetBackbone):
        target, options = bottom_up, {"feature_location": ""}
    elif isinstance(bottom_up, TimmBackbone):
        target, options = bottom_up.model, {}
    else:
        raise UserError(f"{title}, but only build_hrnet_backbone and build_timm_fpn_backbone take timm's weights")

    fetched = _fetch(name, title, out_indices=target.feature_info.out_indices, **options)
    # BatchNorm's counters are of no use to a pretrained model, and frozen norms have none
    shapes, found = (
        {key: tensor.shape for key, tensor in tensors.items() if not key.endswith("num_batches_tracked")}
        for tensors in (target.state_dict(), fetched)
    )
    odd = [key for key in {**shapes, **found} if shapes.get(key) != found.get(key)]
    if odd:
        raise UserError(
            f"{title}, which is another architecture than the backbone: {len(odd)} tensors are missing, unexpected or "
            f"misshapen, first {odd[0]}; set MODEL.HRNET.NAME or MODEL.TIMM.NAME to the same model"
        )
    fetched = {key: tensor for key, tensor in fetched.items() if key in shapes}
    target.load_state_dict(fetched, strict=False)


def _fetch(name: str, title: str, **options: Any) -> dict[str, torch.Tensor]:
    if not timm.is_model(name.split(".")[0]):
        raise UserError(f"{title}, which timm does not know; timm.list_pretrained() gives the names")
    try:
        return timm.create_model(name, features_only=True, pretrained=True, **options).state_dict()
    except Exception as error:  # of the hub, of HTTP, of timm: each its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{title}, which timm cannot load ({reason}); without a network fill timm's cache first, or give a file"
        ) from error
