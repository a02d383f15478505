"""Pose-HRNet and ImageNet HRNet checkpoints, for the backbone made of timm's HRNet."""

import re
from collections.abc import Mapping

from torch import Tensor

from querypose.conversion.files import Conversion, load_backbone
from querypose.conversion.layout import BOTTOM_UP, Layout, shape_of

# pose: the last convolution, of the heatmaps; ImageNet: the modules that gather the branches for the classifier
_HEADS = {
    r"final_layer\..+": "the head (final_layer): heatmaps or classes, not features",
    r"(?:incre_modules|downsamp_modules|classifier)\..+": "the classifier (incre_modules, downsamp_modules, "
    "classifier), which is not part of the backbone",
    r"(?:last_layer|keypoint_head|head)\..+": "the head, which is not part of the backbone",
}

# what a network that reads only the finest branch leaves out: the last module's way to the coarser ones
_OPTIONAL = {
    re.escape(BOTTOM_UP) + r"stage4\.2\.fuse_layers\.[123]\..+": "the three coarser outputs of the last module, which "
    "a pose-HRNet lacks"
}


def hrnet_settings(state_dict: Mapping[str, Tensor]) -> dict[str, object]:
    """Config values inferred from the shapes of an HRNet's tensors in the original naming."""
    width = shape_of(state_dict, r"transition1\.0\.0\.weight", 4)[0]
    return {"MODEL.BACKBONE.NAME": "build_hrnet_backbone", "MODEL.HRNET.NAME": f"hrnet_w{width}"}


def convert_hrnet_checkpoint(path: str) -> Conversion:
    """Read a pose-HRNet or an ImageNet HRNet as weights of our backbone; the names stay as they are."""
    theirs, dropped = load_backbone(path, "HRNet", "transition1.0.0.weight", _HEADS)
    layout = Layout.closest(hrnet_settings(theirs), BOTTOM_UP)
    return layout.conversion(path, {BOTTOM_UP + name: tensor for name, tensor in theirs.items()}, dropped, _OPTIONAL)
