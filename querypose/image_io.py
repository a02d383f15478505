"""Reading and resizing images: the only place where image files are decoded. Needs Pillow and NumPy alone."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, TypeAlias, cast
from unittest import mock

import numpy as np
from PIL import Image, ImageOps

from querypose.errors import UserError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
_warn_once = functools.cache(logger.warning)

ChannelOrder = Literal["RGB", "BGR"]
ImageLike: TypeAlias = "str | os.PathLike[str] | IO[bytes] | Image.Image | np.ndarray | torch.Tensor"

MAX_PIXELS = 100_000_000  # of a file (300 MB of memory); Pillow alone only warns up to 179 million

# Pillow tells it by the content; it passes others to external programs (EPS to Ghostscript) or unmaintained readers.
_FORMATS = {
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "SUN",
    "TGA", "TIFF", "WEBP",
}  # fmt: skip
# read if pillow-heif is there; without it such a file is reported instead of left out
_HEIF_ENDINGS = {".heic", ".heif", ".hif"}


class UnreadableImageError(UserError):
    """An image file that is missing, damaged, too large or in an unsupported format; the message names the file."""


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the image files of a folder by their endings, sorted by name; not those in folders, nor hidden ones."""
    visible = (path for path in Path(folder).iterdir() if not (path.is_dir() or path.name.startswith(".")))
    return sorted(path for path in visible if path.suffix.lower() in image_endings())


@functools.cache
def image_endings() -> frozenset[str]:
    """File name endings (".jpg", ..) of the formats that `open_image` reads, in lower case."""
    _register_readers()
    known = {ending for ending, name in Image.registered_extensions().items() if name in _FORMATS}
    return frozenset(known | _HEIF_ENDINGS)


def read_image_rgb(image: ImageLike, image_format: ChannelOrder = "RGB") -> np.ndarray:
    """Convert an image of any kind into an array (H, W, 3) uint8 RGB, without an alpha channel.

    image: a path, a binary file object or a PIL image of any mode, rotated as its EXIF orientation says; a uint8 array
    (H, W) or (H, W, C); or a tensor (H, W) or (C, H, W) on any device, uint8 or floating point in [0, 1], as of
    torchvision's `to_tensor`, where C is 1, 3 or 4. image_format: channel order of arrays and tensors.

    Raises `UnreadableImageError` for a file that cannot be read, `UserError` for anything else than the above.
    """
    check_image_format(image_format)
    if isinstance(image, str | os.PathLike) or hasattr(image, "read"):
        with open_image(cast("str | IO[bytes]", image)) as opened:
            return pil_to_rgb(opened)
    if isinstance(image, Image.Image):
        try:
            return pil_to_rgb(image)
        except Exception as error:  # it may be closed, or its file is read only now
            raise UnreadableImageError(f"the PIL image cannot be read ({error}); repair it or leave it out") from error
    shape = getattr(image, "shape", ())
    torch = sys.modules.get("torch")  # without it there are no tensors
    if torch is not None and isinstance(image, torch.Tensor):
        image = _tensor_to_array(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"an image must be a path, a PIL image, a uint8 array or a tensor, not {type(image).__name__}.")
    if image.dtype != np.uint8:
        raise UserError(f"an image array must be uint8 with values 0 to 255, not {image.dtype}; convert it first.")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        channels = "1, 3 or 4 channels: (H, W, C) as an array, (C, H, W) as a tensor"
        raise UserError(f"an image must have shape (H, W), or {channels}, not {tuple(shape)}.")
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[:, :, 2::-1] if image_format == "BGR" else image[:, :, :3])


def _tensor_to_array(tensor: torch.Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, C), numbers in [0, 1] -> uint8."""
    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.numel():
        low, high = tensor.aminmax()
        if not (low >= 0 and high <= 1):
            advice = "give 0 to 255 as uint8, not a normalized image."
            raise UserError(f"a float image must have values from 0 to 1, not {low:.3g} to {high:.3g}; {advice}")
        tensor = (tensor.float() * 255).round().byte()
    array: np.ndarray = tensor.cpu().numpy()
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def check_image_format(image_format: str) -> None:
    if image_format not in ("RGB", "BGR"):
        raise UserError(f"the image format must be RGB or BGR, not {image_format}.")


@functools.cache
def _register_readers() -> None:
    """Let Pillow read all its formats, and HEIF if pillow-heif is installed."""
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


@contextlib.contextmanager
def open_image(source: str | os.PathLike[str] | IO[bytes]) -> Iterator[Image.Image]:
    """Open an image file with Pillow, its size checked before it is decoded: `with open_image(source) as image`.

    Any exception inside the block becomes an `UnreadableImageError` of the file, so only decode the image there.
    """
    _register_readers()
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    title = "the image" if name is None else f"the image {name}"
    try:
        with Image.open(source, formats=sorted(_FORMATS & Image.OPEN.keys())) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if name is not None and image.format != "MPO" and getattr(image, "is_animated", False):
                _warn_once("The image %s has several frames; only the first is read.", name)
            yield image
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{title} does not exist; check the path") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"{title} has more than {MAX_PIXELS / 1e6:g} million pixels; shrink it") from error
    except Exception as error:  # Pillow's readers raise any exception on damaged files
        if isinstance(error, UserError):
            reason = str(error)
        elif os.path.splitext(title)[1].lower() in _HEIF_ENDINGS and "HEIF" not in Image.OPEN:
            reason = "it needs: pip install 'querypose[heif]'"
        else:
            reason = getattr(error, "strerror", None) or "it is damaged or no image"
        raise UnreadableImageError(f"{title} cannot be read ({reason}); repair it or leave it out") from error


def pil_to_rgb(image: Image.Image) -> np.ndarray:
    """Return a PIL image, rotated as its EXIF orientation says, as an array (H, W, 3) uint8 RGB."""
    # with a name, Pillow 12 maps turned TIFFs without compression into memory wrongly
    with mock.patch.object(image, "filename", "", create=True):
        image.load()
    if not min(image.size):
        raise UnreadableImageError("it has no pixels")
    with contextlib.suppress(Exception):  # damaged EXIF data do not spoil the pixels
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray: Pillow's own conversion clips everything above 255
        gray = (np.asarray(image).astype(np.int64) / 257).round().clip(0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels have no defined range: convert the image to 8 bits")
    return np.array(image.convert("RGB"))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) of a PIL image after rotation by its EXIF orientation, without decoding it."""
    tags = getattr(image, "tag_v2", {})  # of TIFF, whose size some versions of Pillow have turned already
    size = tags.get(256, image.width), tags.get(257, image.height)
    with contextlib.suppress(Exception):  # damaged EXIF data
        if image.getexif().get(0x0112) in (5, 6, 7, 8):
            return size[::-1]
    return size


def resized_shape(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Return (height, width) of an image scaled to a short side of `min_size`, its long side at most `max_size`.

    As Detectron2's `ResizeShortestEdge.get_output_shape`, bit for bit, but never less than 1 pixel. A `min_size` of 0
    keeps the size.
    """
    if min_size == 0:
        return height, width
    # Detectron2's order of operations: the last bit of a product decides how it is rounded
    scale = min_size / min(height, width)
    new_height, new_width = (min_size, scale * width) if height < width else (scale * height, min_size)
    if max(new_height, new_width) > max_size:
        scale = max_size / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def resize_image(image: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """Scale an array (H, W, 3) uint8 bilinearly to `resized_shape`."""
    new_height, new_width = resized_shape(image.shape[0], image.shape[1], min_size, max_size)
    if (new_height, new_width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
