"""Converting pretrained weights to our naming, and our checkpoints to weights for publication."""

from querypose.conversion.authors import convert_authors_checkpoint, convert_authors_weights
from querypose.conversion.files import Conversion, save_weights
from querypose.conversion.hrnet import convert_hrnet_checkpoint
from querypose.conversion.movenet import convert_movenet_file
from querypose.conversion.publish import backbone_of, publishable_weights
from querypose.conversion.swin import convert_swin_checkpoint
from querypose.conversion.torchvision import convert_torchvision_checkpoint

__all__ = [
    "Conversion",
    "backbone_of",
    "convert_authors_checkpoint",
    "convert_authors_weights",
    "convert_hrnet_checkpoint",
    "convert_movenet_file",
    "convert_swin_checkpoint",
    "convert_torchvision_checkpoint",
    "publishable_weights",
    "save_weights",
]
