"""Pictures and masks from files, whatever their kind, as arrays."""

import threading
import warnings
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File name endings that are taken for pictures when a folder is read, lower case."""


_HEADERS = threading.Lock()  # catch_warnings changes the whole process


class ImageError(ValueError):
    """A file that is not a picture, or not one that can be read; the message names it."""


def read_image(path: Path | BinaryIO) -> np.ndarray:
    """A picture as people see it: (H, W, 3) uint8 RGB, turned as its EXIF says. See `to_rgb`. Safe in threads.

    Args:
        path: Or an open file.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it cannot be read as a picture.
    """
    image = _open(path)
    try:
        return to_rgb(image)
    except ImageError as error:
        raise ImageError(f"{_name(path)} {error}") from None


def to_rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a picture of any mode.

    Transparent parts are laid on white. Greys of 16 bits and more are scaled from 0..65535; those in floating point are taken to be
    0..1, or 0..255 if any is larger.

    Raises:
        ImageError: If an array is not (H, W, 3) uint8, or a pixel is not a finite number.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageError(f"has the shape {image.shape} and type {image.dtype}; a picture is (H, W, 3) of uint8")
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ImageError("has pixels that are not finite numbers")
        white = 65535 if image.mode != "F" else 255 if values.max() > 1 else 1
        grey = np.clip(values / white * 255, 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def read_mask(path: Path) -> np.ndarray:
    """The ids of a mask, (H, W) uint8; a palette is ignored.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is not a picture of one 8-bit channel.
    """
    image = _open(path)
    if image.mode not in ("L", "P"):
        raise ImageError(f"'{path}' has mode {image.mode}; a mask has one 8-bit channel of class ids (mode L or P)")
    return np.array(image)


def _open(path: Path | BinaryIO) -> Image.Image:
    if isinstance(path, str | PathLike) and not Path(path).exists():
        raise FileNotFoundError(f"No file '{path}'")
    try:
        with _HEADERS, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise ImageError(f"{_name(path)} is not a picture that Pillow knows") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{_name(path)} is too large to open safely: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{_name(path)} cannot be read: {error}") from error


def _name(path: Path | BinaryIO) -> str:
    """For messages; an open file's would be an address in memory."""
    return f"'{path}'" if isinstance(path, str | PathLike) else "The file"
