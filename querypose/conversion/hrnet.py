"""HRNet checkpoints of others, pose-HRNet and ImageNet, for the backbone that timm's HRNet makes."""

import re

from torch import Tensor

from querypose.conversion.files import Conversion, load_tensors
from querypose.conversion.layout import align_counters, check_tensors, closest_configs, expected_shapes, shape_of
from querypose.errors import UserError

_PREFIX = "backbone.bottom_up."

# pose: the heatmaps' last convolution; ImageNet: the modules that gather the branches for the classifier
_HEADS = {
    r"final_layer\..+": "the head (final_layer): heatmaps or classes, not features",
    r"(?:incre_modules|downsamp_modules|classifier)\..+": "the classifier (incre_modules, downsamp_modules, "
    "classifier), which a backbone goes without",
    r"(?:last_layer|keypoint_head|head)\..+": "the head, which a backbone goes without",
}

# what a network that reads only the finest branch leaves out: the last module's way to the coarser ones
_COARSE_OUTPUTS = r"stage4\.2\.fuse_layers\.[123]\..+"
COARSE_OUTPUTS = "the three coarser outputs of the last module, which a pose-HRNet lacks"


def hrnet_settings(state_dict: dict[str, Tensor]) -> dict[str, object]:
    """Config values that the tensors of an HRNet, in the original naming, tell by their shapes."""
    width = shape_of(state_dict, r"transition1\.0\.0\.weight")[0]
    return {"MODEL.BACKBONE.NAME": "build_hrnet_backbone", "MODEL.HRNET.NAME": f"hrnet_w{width}"}


def convert_hrnet_checkpoint(path: str) -> Conversion:
    """Read a pose-HRNet or an ImageNet HRNet as weights of our backbone; the names stay as they are.

    Raises:
        UserError: a file that is missing, holds code, or is not exactly an HRNet.
    """
    loaded, dropped = load_tensors(path)
    inner = any(name.startswith("backbone.transition1.") for name in loaded)
    theirs: dict[str, Tensor] = {}
    for name, tensor in loaded.items():
        bare = name.removeprefix("backbone.") if inner else name
        reason = next((reason for pattern, reason in _HEADS.items() if re.fullmatch(pattern, bare)), None)
        if reason:
            dropped.setdefault(reason, []).append(name)
        else:
            theirs[bare] = tensor
    if "transition1.0.0.weight" not in theirs:
        raise UserError(f"the checkpoint '{path}' is no HRNet: it lacks transition1.0.0.weight")

    configs, overrides = closest_configs(hrnet_settings(theirs))
    expected = expected_shapes(configs[0], overrides, _PREFIX)
    coarse = [name for name in expected if re.fullmatch(_COARSE_OUTPUTS, name)]
    # all of them or none: a file with some of them is damaged
    fresh = [] if any(name in theirs for name in coarse) else coarse
    check_tensors(path, theirs, {name: shape for name, shape in expected.items() if name not in fresh})
    align_counters(theirs, expected.keys() - set(fresh), dropped)
    state_dict = {_PREFIX + name: tensor for name, tensor in theirs.items()}
    reasons = {COARSE_OUTPUTS: [_PREFIX + name for name in fresh]} if fresh else {}
    return Conversion(state_dict, dropped, reasons, configs, overrides)
