"""Stamps: every result file says in itself which input and model it was made from, and with which options.

A stamp is a line of JSON inside the file, so that a file and its stamp appear, move and vanish together: a text chunk of a PNG, a
tag of a TIFF, the comment of an mp4. `--skip-existing` skips a file only if its stamp is the one that would be written.
"""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.rasters import quiet

_KEY = b"pspnet_zoo\0"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DESCRIPTION = 270  # TIFF's tag
_HEADER = 33  # bytes of the signature and the chunk IHDR, which come first in every PNG
TIFF_TAG = "PSPNET_ZOO"
"""Name of the stamp in a GeoTIFF; with a space behind, the beginning of the description of a multi-label mask."""
LONGEST_HEAD = _HEADER + 4096
"""Bytes at the beginning of a PNG file that hold its stamp."""

IMAGE_SUFFIXES = ("_mask.png", "_mask.tif", "_overlay.png", "_confidence.png")
"""Ends of the names of results that are images."""


def make_stamp(input_sha256: str, model_sha256: str, **options: Any) -> str:
    """The stamp of a result.

    Args:
        input_sha256: Digest of the input file.
        model_sha256: See `model_digest`.
        options: Those that change the file's contents.
    """
    return json.dumps({"input": input_sha256, "model": model_sha256, **options}, sort_keys=True)


def stamp_png(png: bytes, stamp: str) -> bytes:
    """The bytes of a PNG file with a stamp in it."""
    body = b"tEXt" + _KEY + stamp.encode()
    return png[:_HEADER] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + png[_HEADER:]


def read_stamp(path: Path) -> str | None:
    """The stamp of a PNG or TIFF file; None if it has none, is another file, or cannot be read."""
    if path.suffix != ".tif" or not path.is_file():
        return read_png_stamp(path)
    try:
        with quiet(), Image.open(path, formats=["TIFF"]) as image:
            description = str(getattr(image, "tag_v2", {}).get(_DESCRIPTION, ""))
        if description.startswith(f"{TIFF_TAG} "):
            return description.removeprefix(f"{TIFF_TAG} ")
        import rasterio

        with quiet(), rasterio.open(path, driver="GTiff") as file:
            return file.tags().get(TIFF_TAG)
    # rasterio's and Pillow's other errors are of OSError; rasterio takes no names that are not Unicode
    except (OSError, ImportError, UnicodeError, Image.DecompressionBombError):
        return None


def read_png_stamp(path: Path) -> str | None:
    """The stamp of a PNG file; None if it has none, is another file, or cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return find_png_stamp(file.read(LONGEST_HEAD))
    except OSError:
        return None


def find_png_stamp(head: bytes) -> str | None:
    """The stamp in the first `LONGEST_HEAD` bytes of a file; None if there is none."""
    start = _HEADER + 4
    if not head.startswith(_SIGNATURE) or head[start : start + 4 + len(_KEY)] != b"tEXt" + _KEY:
        return None
    end = start + 4 + struct.unpack(">I", head[_HEADER:start])[0]
    if head[end : end + 4] != struct.pack(">I", zlib.crc32(head[start:end])):
        return None
    return head[start + 4 + len(_KEY) : end].decode("ascii", "replace")


def is_result(path: Path) -> bool:
    """Whether a file is a mask or an overlay that this package wrote, by its name and its stamp."""
    return path.name.endswith(IMAGE_SUFFIXES) and read_stamp(path) is not None
