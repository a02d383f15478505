"""Reading images of any kind: upright, three channels, eight bits."""

import numpy as np

from querypose.errors import UserError
from querypose.image_files import ImageFileError, open_image, upright


class UnreadableImageError(UserError):
    """An image file that is missing, damaged, or no image."""


def read_image(path, channels="RGB"):
    """Return an image file as an array (H, W, 3) uint8, upright by its EXIF orientation.

    Grey images, 16-bit ones too, get three equal channels; palettes and CMYK become colours; transparency is left out.

    Args:
        path: image file.
        channels: their order, "RGB" or "BGR".

    Raises:
        UnreadableImageError: names the file and what is wrong.
    """
    try:
        with open_image(path) as image:
            pixels = to_rgb(image)
    except FileNotFoundError as error:
        raise UnreadableImageError(f"the image {path} does not exist; check the data set's image folder") from error
    except ImageFileError as error:
        raise UnreadableImageError(f"the image {path} cannot be read ({error}); repair or remove it") from error
    return pixels[:, :, ::-1] if channels == "BGR" else pixels


def to_rgb(image):
    """Return a PIL image as an upright array (H, W, 3) uint8 RGB."""
    image = upright(image)
    if image.mode.startswith("I"):
        # 16 bits of grey: PIL's own conversion would clip all above 255 to white
        grey = (np.asarray(image).astype(np.int64) / 257).round().clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))
