"""timm's pretrained weights, by name, for the backbones that are made of timm's models."""

from typing import Any

import timm
from torch import nn

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
        fetched = timm.create_model(name, out_indices=target.feature_info.out_indices, **options).state_dict()
    except Exception as error:  # of the hub, of HTTP, of timm: each its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{title}, which timm cannot load ({reason}); without a network fill timm's cache") from error
    # BatchNorm's counters are of no use to a pretrained model, and frozen norms have none
    shapes, found = (
        {key: tensor.shape for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
        for state in (target.state_dict(), fetched)
    )
    odd = [key for key in {**shapes, **found} if shapes.get(key) != found.get(key)]
    if odd:
        number = f"{len(odd)} tensors, first {odd[0]}"
        raise UserError(f"{title}, which is another architecture than the backbone ({number})")
    fetched = {key: fetched[key] for key in found}
    target.load_state_dict(fetched, strict=False)
