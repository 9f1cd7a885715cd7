"""Images and masks from files, whatever their kind, as arrays."""

import logging
import threading
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File name endings that are taken for images when a folder is read, lower case."""


_WHITES = (2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1)
"""Of greys with more than 8 bits: cameras write 10, 12 and 14 bits into 16."""

_log = logging.getLogger(__name__)
_HEADERS = threading.Lock()  # catch_warnings changes the whole process


class ImageError(ValueError):
    """A file that is not an image, or not one that can be read; the message names it."""


def read_image(path: Path | BinaryIO) -> np.ndarray:
    """An image as people see it: (H, W, 3) uint8 RGB, turned as its EXIF says. See `to_rgb`. Safe in threads.

    Of a file with several images it is the first, with a warning in the log. Images of up to 178 million pixels are read, twice
    what Pillow reads without a warning.

    Args:
        path: Or an open file.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it cannot be read as an image.
    """
    image = _open(path)
    try:
        return to_rgb(image)
    except ImageError as error:
        raise ImageError(f"{_name(path)} {error}") from None
    except Exception as error:
        raise _unreadable(path, error) from error


def to_rgb(image: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a PIL image of any mode, an (H, W, 3) uint8 array, or a (3, H, W) uint8 tensor.

    A PIL image is turned as its EXIF says. Transparent parts are laid on white. Greys of more than 8 bits are scaled from the
    least of 8, 10, 12, 14 and 16 bits that holds all of them; those in floating point are taken to be 0..1, or 0..255 if any is
    larger.

    Raises:
        ImageError: If it is something else, has no pixels, or a pixel is not a finite number.
    """
    if hasattr(image, "detach"):  # a tensor, without torch imported for it
        if image.ndim != 3 or image.shape[0] != 3:
            raise ImageError(f"has the shape {tuple(image.shape)}; an image as a tensor is (3, H, W) of uint8")
        image = image.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageError(f"has the shape {image.shape} and type {image.dtype}; an image is (H, W, 3) of uint8")
        return image
    if not isinstance(image, Image.Image):
        raise ImageError(f"is a {type(image).__name__}; an image is a file, a PIL image, an array (H, W, 3) or a tensor (3, H, W)")
    if not (image.width and image.height):
        raise ImageError(f"is {image.width}x{image.height}: it has no pixels")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ImageError("has pixels that are not finite numbers")
        if image.mode == "F":
            white = 255 if values.max() > 1 else 1
        else:
            white = next((w for w in _WHITES if values.max() <= w), _WHITES[-1])
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
        ImageError: If it is not an image of one 8-bit channel.
    """
    return _read_ids(path, ("L", "P"))


def read_prediction(path: Path) -> np.ndarray:
    """The ids of a mask that `Prediction.save` wrote, (H, W) uint8, or uint16 where there are more than 255 classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is something else.
    """
    return _read_ids(path, ("L", "P", "I;16"))


def _read_ids(path: Path, modes: Sequence[str]) -> np.ndarray:
    image = _open(path)
    if image.mode not in modes:
        raise ImageError(f"'{path}' has mode {image.mode}; a mask has one 8-bit channel of class ids (mode L or P)")
    return np.array(image)


def _open(path: Path | BinaryIO) -> Image.Image:
    if isinstance(path, str | PathLike):
        if not Path(path).exists():
            raise FileNotFoundError(f"No file '{path}'")
        if not Path(path).is_file():  # opening a pipe would wait for a writer
            raise ImageError(f"{_name(path)} cannot be read: it is a folder, a pipe or a device, not a file")
    try:
        with _HEADERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened as image:
            if (images := getattr(image, "n_frames", 1)) > 1:
                _log.warning("%s holds %d images; only the first is read", _name(path), images)
                image.seek(0)
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise ImageError(f"{_name(path)} is not an image that Pillow knows") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            f"{_name(path)} has more than {most:,} pixels, the most that are read; shrink it, or cut it into parts"
        ) from None
    except Exception as error:  # Pillow's decoders fail in every way on damaged files
        raise _unreadable(path, error) from error


def _unreadable(path: Path | BinaryIO, error: Exception) -> ImageError:
    if isinstance(error, MemoryError):
        return ImageError(f"{_name(path)} needs more memory than there is; shrink it, or cut it into parts")
    return ImageError(f"{_name(path)} cannot be read: {str(error) or type(error).__name__}")


def _name(path: Path | BinaryIO) -> str:
    """For messages; an open file's would be an address in memory."""
    return f"'{path}'" if isinstance(path, str | PathLike) else "The file"
