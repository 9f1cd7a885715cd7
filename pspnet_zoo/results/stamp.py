"""Stamps: every result file says in itself which input and model it was made from, and with which options.

A stamp is a line of JSON inside the file, so that a file and its stamp appear, move and vanish together: a text chunk of a PNG, a
tag of a TIFF, the comment of an mp4. `--skip-existing` skips a file only if its stamp is the one that would be written.
"""

import html
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

from ..data.images import tiff_tags
from ..data.rasters import quiet

_KEY = b"pspnet_zoo\0"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DESCRIPTION = 270  # TIFF's tag
_METADATA = 42112  # GDAL's tag for the XML of what it calls tags
_HEADER = 33  # bytes of the signature and the chunk IHDR, which come first in every PNG
TIFF_TAG = "PSPNET_ZOO"
"""Name of the stamp in a GeoTIFF; with a space behind, the beginning of the description of a multi-label mask."""
LONGEST_HEAD = _HEADER + 4096
"""Bytes at the beginning of a PNG file that hold its stamp."""

_FRAME = re.compile(r".*_\d{6,}\.png", re.DOTALL)  # the mask of a video's frame

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
        with path.open("rb") as file:
            return find_tiff_stamp(file)
    except OSError:
        return None


def find_tiff_stamp(file: BinaryIO) -> str | None:
    """The stamp in the tags of a TIFF file; None if it has none, or is another or a damaged file."""
    try:
        with quiet():
            tags = tiff_tags(file)
        description = str(tags.get(_DESCRIPTION, ""))
        if description.startswith(f"{TIFF_TAG} "):
            return description.removeprefix(f"{TIFF_TAG} ")
        stamp = ElementTree.fromstring(tags[_METADATA]).findtext(f"Item[@name='{TIFF_TAG}']")
        return stamp and html.unescape(stamp)  # GDAL escapes the text once more than XML asks for
    except Exception:  # Pillow fails in every way on damaged files
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
    return named_as_result(path.name) and read_stamp(path) is not None


def named_as_result(name: str) -> bool:
    """Whether a file name is one of the results that are images, as other files' may be too."""
    return name.endswith(IMAGE_SUFFIXES) or _FRAME.fullmatch(name) is not None
