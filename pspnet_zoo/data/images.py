"""Images and masks from files of any format, as arrays. Pixels of more than 8 bits are scaled by what their type states."""

import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageSequence, TiffImagePlugin, UnidentifiedImageError

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File name endings of images in a folder, lower case."""
UPLOAD_FORMATS = frozenset({"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"})
"""Pillow's names of the formats that strangers may send; for some others it runs a program, as Ghostscript for EPS."""
UPLOAD_MEGABYTES = 30
"""Size of the largest file that strangers may send, unless a command says otherwise."""
UPLOAD_PIXELS = 50_000_000
"""Most pixels of an image that strangers may send, unless a command says otherwise."""
UPLOAD_RATIO = 50
"""Longer side of such an image by its shorter one; a network resizes a thin image to a square of its longer side."""

_log = logging.getLogger(__name__)
_HEADERS = threading.Lock()  # catch_warnings changes the whole process


class ImageError(ValueError):
    """A file that is not an image, or not one that can be read; the message names it."""


class ImageSizeError(ImageError):
    """An image with more pixels than are accepted."""


class ImageFormatError(ImageError):
    """A file that is not an image, or an image in a format that is not accepted."""


def read_image(path: Path | BinaryIO) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB, turned as its EXIF states; see `to_rgb`. Safe in threads.

    The first image of a file with several is read, with a warning in the log. The most pixels are 178 million, twice what Pillow
    reads without a warning.

    Args:
        path: A path or an open file.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it cannot be read as an image, or does not state which pixel value is white.
    """
    image, bits = _open(path)
    try:
        return _as_rgb(image, bits, _name(path))
    except ImageError as error:
        raise ImageError(f"{_name(path)} {error}") from None
    except Exception as error:
        raise _unreadable(path, error) from error


def has_deep_channels(path: Path) -> bool:
    """Whether a file has 16 bits a channel, of which `read_image` keeps the upper 8; False of one that cannot be read."""
    with suppress(Exception), _HEADERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            stored = [tile[3] for tile in image.tile]
            modes = [str(each[0]) if isinstance(each, tuple) and each else str(each) for each in stored]
            return any(";16" in mode and "BGR" not in mode for mode in modes)  # RGB;16B; but a BMP of BGR;16 has 16 a pixel
    return False


def is_too_large(path: Path) -> bool:
    """Whether a file has more pixels than `read_image` reads."""
    try:
        with _HEADERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path).close()
    except Image.DecompressionBombError:
        return True
    except Exception:  # what is wrong is told when it is read
        return False
    return False


def check_upload(file: Path | BinaryIO, *, max_pixels: int = UPLOAD_PIXELS) -> None:
    """Refuse a stranger's image that would take too much time or memory, by its header, before a pixel is decoded.

    Raises:
        ImageSizeError: If it has more than `max_pixels`.
        ImageFormatError: If it is none of `UPLOAD_FORMATS`.
        ImageError: If one side is more than `UPLOAD_RATIO` times the other, or its header cannot be read.
    """
    too_large = f"This image has more than {max_pixels / 1e6:g} megapixels, the most that is accepted. Shrink it."
    try:
        with _HEADERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(file)
        with opened as image:
            kind, (width, height) = image.format, image.size
    except Image.DecompressionBombError:
        raise ImageSizeError(too_large) from None
    except UnidentifiedImageError:
        raise ImageFormatError(f"{_name(file)} is not an image that Pillow knows") from None
    except Exception as error:  # other readers may not mind the damage, and know no limit
        raise _unreadable(file, error) from None
    if kind not in UPLOAD_FORMATS:
        raise ImageFormatError(f"This image is a {kind} file; accepted are {', '.join(sorted(UPLOAD_FORMATS))}.")
    if width * height > max_pixels:
        raise ImageSizeError(too_large)
    if max(width, height) > UPLOAD_RATIO * min(width, height):
        raise ImageError(f"This image has {width} x {height} pixels; the longer side may be {UPLOAD_RATIO} times the shorter one.")


def image_orientation(path: Path) -> int:
    """The orientation of a TIFF or PNG, which GDAL does not tell; 1 where none is stated."""
    with path.open("rb") as file, suppress(Exception):  # GDAL has opened the file, and says what is wrong with it
        is_png = file.read(8) == b"\x89PNG\r\n\x1a\n"
        if not is_png:
            file.seek(0)
        return int((_png_exif if is_png else tiff_tags)(file).get(ExifTags.Base.Orientation, 1))
    return 1


def _png_exif(file: BinaryIO) -> Image.Exif:
    """The Exif data of a PNG whose signature has been read; Pillow would decode all pixels that are before it."""
    exif = Image.Exif()
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"eXIf":
            exif.load(b"Exif\0\0" + file.read(min(length, 1 << 20)))
            break
        file.seek(length + 4, io.SEEK_CUR)
    return exif


def tiff_tags(file: BinaryIO) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of a TIFF's first image, however large it is; raises whatever Pillow does for a damaged file."""
    head = file.read(8)
    head += file.read(8) if head[2:3] == b"+" else b""  # BigTIFF
    directory = TiffImagePlugin.ImageFileDirectory_v2(head)
    file.seek(directory.next)
    directory.load(file)
    return directory


def to_rgb(image: Any) -> np.ndarray:
    """Convert a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor to (H, W, 3) uint8 RGB.

    A PIL image is turned as its EXIF states. Transparent parts are laid on white, with a warning in the log. White is 2**n - 1 for
    unsigned integers of n bits, and 1.0 for floating point; it does not depend on the pixels.

    Raises:
        ImageError: If it is something else, has no pixels, or has values that its type does not give a range.
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
    bits = _bits(image)
    try:
        return _as_rgb(ImageOps.exif_transpose(image), bits, "The image")
    except ImageError:
        raise
    except Exception as error:  # a damaged file that is decoded only now
        raise ImageError(f"cannot be read: {str(error) or type(error).__name__}") from error


_STATE_WHITE = "Save it with 8 or 16 bits, or train on its own values: pspnet-zoo data stats DIR --write"


def _bits(image: Image.Image) -> int | None:
    """Bits of the unsigned pixels of an image in grayscale with more than 8, None where its type does not state them.

    Raises:
        ImageError: If the image has a fourth channel that is not stated to be alpha.
    """
    tags = getattr(image, "tag_v2", {})
    if tags.get(_SAMPLE_FORMAT, (1,))[0] == 2 and image.mode == "L":
        raise ImageError(f"has signed 8-bit pixels, whose white is not stated. {_STATE_WHITE}")
    if image.mode == "RGBA" and tags and tags.get(_EXTRA_SAMPLES, (0,))[0] not in (1, 2):
        raise ImageError(
            "has a fourth channel, and no tag ExtraSamples says that it is alpha. Save the image as RGB, or state its bands: "
            "pspnet-zoo data stats DIR --write"
        )
    if image.mode.startswith("I;16"):
        if tags.get(_PHOTOMETRIC) == 0:
            raise ImageError(
                "has 16-bit pixels of which 0 is white, as its tag PhotometricInterpretation says; save it with 0 as black"
            )
        return tags.get(_BITS_PER_SAMPLE, (16,))[0]
    return 16 if image.mode == "I" and image.format in ("PNG", "PPM") else None


_BITS_PER_SAMPLE, _PHOTOMETRIC, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 258, 262, 338, 339  # tags of TIFF


def _as_rgb(image: Image.Image, bits: int | None, name: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a PIL image of any mode; `bits` are those of `_bits`."""
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # nor NaN
            raise ImageError(
                f"has floating-point pixels from {values.min():g} to {values.max():g}; they are read as 0 (black) to 1 (white). "
                f"Scale them to that range. {_STATE_WHITE}"
            )
        gray = (values * 255).round().astype(np.uint8)
    elif image.mode == "I" or image.mode.startswith("I;16"):
        if bits is None:
            raise ImageError(f"has 32-bit integer pixels, whose white is not stated. {_STATE_WHITE}")
        values = np.asarray(image)
        if 0 < (most := int(values.max())) < 2 ** (bits - 2):
            _warn_once(f"{name} has no value above {most}, and white is {2**bits - 1}: it is read as dark")
        gray = (values >> (bits - 8)).astype(np.uint8)  # as Pillow reads 16 bits of colour
    else:
        if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            if image.getextrema()[3][0] < 255:  # type: ignore[index]
                _warn_once(f"{name} has transparent pixels, which are laid on white")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))
    return np.repeat(gray[..., None], 3, axis=2)


def read_mask(path: Path) -> np.ndarray:
    """Read the ids of a mask, (H, W) uint8; a palette is ignored.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is not an image of one 8-bit channel.
    """
    return _read_ids(path, ("L", "P"))


def read_prediction(path: Path) -> np.ndarray:
    """Read the ids of a mask that `Prediction.save` wrote, (H, W) uint8, or uint16 for more than 255 classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is something else.
    """
    return _read_ids(path, ("L", "P", "I;16"))


def read_class_masks(path: Path, classes: int) -> np.ndarray:
    """Read the masks of several classes a pixel, (classes, H, W) uint8: 1 where it is of the class, 0 where not, 255 where ignored.

    The file is a TIFF with a page a class, 8 bits each, as `encode_class_masks` makes it.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is something else, or has another number of pages.
    """
    check_file(path)
    try:
        with _HEADERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=["TIFF"])
        with opened as image:
            if (pages := getattr(image, "n_frames", 1)) != classes:
                raise ImageError(f"'{path}' has {pages} pages; multi-label masks of {classes} classes have a page a class")
            masks = [np.array(page) for page in ImageSequence.Iterator(image) if page.mode == "L"]
    except ImageError:
        raise
    except Exception as error:  # Pillow fails in every way on damaged files
        raise _unreadable(path, error) from None
    if len(masks) != classes or len({mask.shape for mask in masks}) != 1:
        raise ImageError(f"'{path}' has pages of other sizes or types; masks are pages of one size, in 8-bit grayscale")
    found = np.stack(masks)
    values = np.flatnonzero(np.bincount(found.ravel(), minlength=256)).tolist()
    if unknown := [value for value in values if value not in (0, 1, 255)]:
        raise ImageError(f"'{path}' holds the values {unknown[:5]}; multi-label masks hold 0, 1 for the class, and 255 for ignored")
    return found


def encode_class_masks(masks: np.ndarray, description: str = "") -> bytes:
    """A TIFF file of (classes, H, W) masks of 0, 1 and 255, a page a class, with a text in it if wanted."""
    first, *rest = (Image.fromarray(mask) for mask in masks.astype(np.uint8))
    buffer, options = io.BytesIO(), {"description": description} if description else {}
    first.save(buffer, "TIFF", save_all=True, append_images=rest, compression="tiff_adobe_deflate", **options)
    return buffer.getvalue()


def _read_ids(path: Path, modes: Sequence[str]) -> np.ndarray:
    image, _ = _open(path, check_ids)
    if image.mode not in modes:
        raise ImageError(f"'{path}' has mode {image.mode}; a mask has one 8-bit channel of class ids (mode L or P)")
    return np.array(image)


def check_ids(image: Image.Image) -> None:
    """Refuse a TIFF in grayscale whose ids Pillow changes: it spreads those of 2 or 4 bits over 0 to 255, and inverts some.

    Raises:
        ImageError: If it does; without the file's name.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "L" and ((bits := tags.get(_BITS_PER_SAMPLE, (8,))[0]) < 8 or tags.get(_PHOTOMETRIC) == 0):
        raise ImageError(
            f"has {bits} bits a pixel" + " of which 0 is white" * (bits == 8) + "; save its ids with 8 bits, 0 as black"
        )


def check_file(path: Path) -> None:
    """Refuse what must not be opened, since reading it might never end.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is a pipe or a device, or has no bytes, as files of /proc state.
    """
    if not path.exists():
        raise FileNotFoundError(f"No file '{path}'")
    if not path.is_file():
        raise ImageError(f"'{path}' cannot be read: it is a folder, a pipe or a device, not a file")
    if not path.stat().st_size:
        raise ImageError(f"'{path}' is empty; copy it again")


def _open(path: Path | BinaryIO, check: Callable[[Image.Image], object] = lambda image: None) -> tuple[Image.Image, int | None]:
    """The image, turned, and its `_bits`; `check` refuses some before they are decoded."""
    if isinstance(path, str | PathLike):
        check_file(Path(path))
    try:
        with _told_once(_name(path)):
            opened = Image.open(path)
        with opened as image:
            if getattr(image, "is_animated", False):  # to count them, Pillow would walk through the whole file
                _warn_once(f"{_name(path)} holds several images; only the first is read")
                image.seek(0)
            if image.format == "EPS":  # Pillow would run Ghostscript on it
                raise ImageError("is PostScript, a program, which is not run; save it as PNG")
            check(image)
            bits = _bits(image)
            image.load()
            with _told_once(_name(path)):
                image.getexif()  # Pillow keeps it
            return ImageOps.exif_transpose(image), bits
    except ImageError as error:
        raise ImageError(f"{_name(path)} {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{_name(path)} is not an image that Pillow knows") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            f"{_name(path)} has more than {most:,} pixels, the most that are read at once; segment it in tiles, by --tile 512 or "
            "Predictor(tile=512).rows(FILE), shrink it, or cut it into parts"
        ) from None
    except Exception as error:  # Pillow's decoders fail in every way on damaged files
        raise _unreadable(path, error) from error


@contextmanager
def _told_once(name: str) -> Iterator[None]:
    """Log Pillow's warnings of damaged metadata under the file's name, which they lack; one may be why an image is not turned."""
    with _HEADERS, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
    if found:
        _warn_once(f"{name} has damaged metadata, which are left out: {str(found[0].message).strip()}")


@lru_cache(maxsize=4096)  # training reads a file in every epoch
def _warn_once(text: str) -> None:
    _log.warning("%s", text)


def _unreadable(path: Path | BinaryIO, error: Exception) -> ImageError:
    if isinstance(error, MemoryError):
        return ImageError(f"{_name(path)} needs more memory than there is; shrink it, or cut it into parts")
    return ImageError(f"{_name(path)} cannot be read: {str(error) or type(error).__name__}")


def _name(path: Path | BinaryIO) -> str:
    """The file in messages; that of an open file would be an address in memory."""
    return f"'{path}'" if isinstance(path, str | PathLike) else "The file"
