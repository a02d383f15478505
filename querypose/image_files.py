"""Image files of any origin, opened with bounds: common formats alone, and no more pixels than memory is meant for."""

import contextlib
import os
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from querypose.errors import UserError

MAX_PIXELS = 100_000_000
"""Of an image file; one of that size takes 300 MB of memory. PIL alone would only warn up to 179 million."""

# PIL finds the format by the content, whatever the file is called, and hands some of the other formats to programs
# outside of it (EPS to Ghostscript) or to readers that hardly anybody uses and looks after.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF",
    "WEBP",
)  # fmt: skip


class ImageFileError(Exception):
    """Its message is the reason, to follow the name of the file."""


@contextlib.contextmanager
def open_image(source: str | os.PathLike | IO[bytes], max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """`with open_image(source) as image`: PIL's image of a file, by its path or its stream, its size looked at first.

    What is raised inside the block counts as the file's fault: decode the image there and nothing else.

    Raises:
        FileNotFoundError: as it is.
        ImageFileError: no image, a damaged one, one of another format or of more than `max_pixels`.
    """
    try:
        with Image.open(source, formats=[name for name in FORMATS if _is_built_in(name)]) as image:
            if image.width * image.height > max_pixels:
                raise ImageFileError(
                    f"it has {image.width} x {image.height} pixels, more than {max_pixels / 1e6:g} million"
                )
            yield image
    except (FileNotFoundError, ImageFileError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"it has more than {max_pixels / 1e6:g} million pixels") from error
    except Exception as error:  # PIL's readers raise what they like on damaged files
        reason = getattr(error, "strerror", None) or "it is damaged or no image"
        raise ImageFileError(reason) from error


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it is where the EXIF data are damaged."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the picture itself is whole
        return image


def to_rgb(image: Image.Image) -> np.ndarray:
    """A PIL image as an upright array (H, W, 3) uint8 RGB."""
    image = upright(image)
    if image.mode.startswith("I"):
        # 16 bits of grey: PIL's own conversion would clip all above 255 to white
        grey = (np.asarray(image).astype(np.int64) / 257).round().clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def array_to_rgb(array: np.ndarray, channel_order: str = "RGB") -> np.ndarray:
    """A uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), its colours in that order, as (H, W, 3) RGB.

    Raises:
        UserError: an array of another shape.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise UserError(f"an image array must have shape (H, W), or (H, W, C) with C 1, 3 or 4, not {array.shape}.")
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[:, :, 2::-1] if channel_order == "BGR" else array[:, :, :3])


def _is_built_in(name: str) -> bool:
    Image.init()
    return name in Image.OPEN
