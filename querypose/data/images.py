"""Reading images of any kind: upright, three channels, eight bits."""

from querypose.errors import UserError
from querypose.image_files import ImageFileError, open_image, to_rgb


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
