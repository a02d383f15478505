"""Images of every kind that people have in their hands, as one: an RGB array."""

import os
from typing import Literal

import numpy as np
import torch
from PIL import Image

from querypose.errors import UserError
from querypose.image_files import ImageFileError, array_to_rgb, open_image, to_rgb

ChannelOrder = Literal["RGB", "BGR"]
ImageLike = str | os.PathLike | Image.Image | np.ndarray | torch.Tensor


def read_image_rgb(image: ImageLike, image_format: ChannelOrder = "RGB") -> np.ndarray:
    """Turn an image of any kind into an array (H, W, 3) uint8 RGB.

    image is one of
      - a path, read with its EXIF orientation; a PIL image;
      - a uint8 array of shape (H, W, 3) or (H, W, 4) whose first three channels are in the order `image_format` ("RGB"
        or "BGR"), or of grey values (H, W) or (H, W, 1);
      - a tensor of shape (3, H, W), (4, H, W), (1, H, W) or (H, W) in that order, on any device, uint8 or, as of
        torchvision's `to_tensor`, of floating point in [0, 1].
    Raises `UserError` if it is none of these or cannot be read.
    """
    check_image_format(image_format)
    if isinstance(image, str | os.PathLike):
        return _read_file(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, torch.Tensor):
        image = _tensor_to_array(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"an image must be a path, a PIL image, a uint8 array or a tensor, not {type(image).__name__}.")
    if image.dtype != np.uint8:
        raise UserError(f"an image array must be uint8 with values 0 to 255, not {image.dtype}; convert it first.")
    return array_to_rgb(image, image_format)


def check_image_format(image_format: str) -> None:
    """Raise a `UserError` unless it is an order of channels."""
    if image_format not in ("RGB", "BGR"):
        raise UserError(f"the image format must be RGB or BGR, not {image_format}.")


def _read_file(path: str | os.PathLike) -> np.ndarray:
    try:
        with open_image(path) as opened:
            return to_rgb(opened)
    except FileNotFoundError:
        raise UserError(f"there is no image {os.fspath(path)}; check the path.") from None
    except ImageFileError as error:
        raise UserError(f"cannot read the image {os.fspath(path)}: {error}; leave it out or mend it.") from error


def _tensor_to_array(tensor: torch.Tensor) -> np.ndarray:
    """(C, H, W) or (H, W) -> (H, W, C) uint8."""
    if tensor.dim() == 2:
        tensor = tensor[None]
    if tensor.dim() != 3 or tensor.shape[0] not in (1, 3, 4) or tensor.numel() == 0:
        raise UserError(
            f"an image tensor must have shape (H, W), or (C, H, W) with C 1, 3 or 4, not {tuple(tensor.shape)}."
        )
    tensor = tensor.detach()
    if tensor.is_floating_point():
        low, high = tensor.aminmax()
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"an image tensor of {tensor.dtype} must have values from 0 to 1, not {low:.3g} to {high:.3g}; "
                "give 0 to 255 as uint8, and no normalised image."
            )
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    elif tensor.dtype != torch.uint8:
        raise UserError(f"an image tensor must be uint8 or of floating point, not {tensor.dtype}; convert it first.")
    return tensor.cpu().permute(1, 2, 0).numpy()
