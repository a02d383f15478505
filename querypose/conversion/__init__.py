"""Converting pretrained weights to our naming, and our checkpoints to weights for publication."""

from querypose.conversion import backbones
from querypose.conversion.authors import convert_authors_checkpoint
from querypose.conversion.layout import backbone_of, publishable_weights
from querypose.conversion.movenet import convert_movenet_file

CONVERTERS = {
    "authors": convert_authors_checkpoint,
    "hrnet": backbones.convert_hrnet_checkpoint,
    "swin": backbones.convert_swin_checkpoint,
    "movenet": convert_movenet_file,
    "torchvision": backbones.convert_torchvision_checkpoint,
    "querypose": publishable_weights,
    "backbone": backbone_of,
}
"""By the name of whose checkpoint it is: a function from its path to the `Conversion`.

They raise a `UserError` for a file that is missing, holds code, or does not hold exactly the tensors of its kind, and
PyTorch's errors for shapes of no model.
"""
