"""Image files of any origin, opened with bounds: common formats alone, and no more pixels than memory is meant for."""

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from PIL import Image, ImageOps

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


def _is_built_in(name: str) -> bool:
    Image.init()
    return name in Image.OPEN
