"""Converting pretrained weights to our naming, and our checkpoints to weights for publication."""

from querypose.conversion.authors import convert_authors_checkpoint
from querypose.conversion.backbones import (
    convert_hrnet_checkpoint,
    convert_swin_checkpoint,
    convert_torchvision_checkpoint,
)
from querypose.conversion.files import backbone_of, publishable_weights
from querypose.conversion.movenet import convert_movenet_file

CONVERTERS = {
    "authors": convert_authors_checkpoint,
    "hrnet": convert_hrnet_checkpoint,
    "swin": convert_swin_checkpoint,
    "movenet": convert_movenet_file,
    "torchvision": convert_torchvision_checkpoint,
    "querypose": publishable_weights,
    "backbone": backbone_of,
}
"""By the name of whose checkpoint it is: a function from its path to the `Conversion`.

They raise a `UserError` for a file that is missing, holds code, or does not hold exactly the tensors of its kind.
"""
