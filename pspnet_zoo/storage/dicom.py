"""Guards of pydicom: the size that a compressed file unpacks to, what messages quote of a file, the range of a window's values."""

import re
import struct
import zlib
from os import PathLike
from typing import Any

MAX_INFLATED = 2**30
"""Most bytes that a deflated file may unpack to."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PREAMBLE = 132
_QUOTED = re.compile(r"(['\"])(.*?)(?:\1|$)", re.DOTALL)
_LONG = (b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")  # lengths of four bytes


def refuse_inflating(path: str | PathLike[str]) -> None:
    """Refuse a deflated DICOM file that would fill the memory; three megabytes can unpack to three gigabytes.

    Raises:
        ValueError: If it unpacks to more than `MAX_INFLATED` bytes.
        struct.error: If it is cut off.
        zlib.error: If it is damaged.
    """
    # PS3.10, 7.1: elements of group 2 in explicit little endian, then the dataset; PS3.5, A.5: deflated without a header
    with open(path, "rb") as file:
        file.seek(_PREAMBLE)
        is_deflated, start = False, _PREAMBLE
        while (head := file.read(8))[:2] == b"\2\0":
            (length,) = struct.unpack("<I", file.read(4)) if head[4:6] in _LONG else struct.unpack("<H", head[6:])
            if head[:4] == b"\2\0\x10\0":
                is_deflated = file.read(length).rstrip(b"\0 ") == _DEFLATED
            else:
                file.seek(length, 1)
            start = file.tell()
        if not is_deflated:
            return
        file.seek(start)
        inflate, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while chunk := file.read(1 << 16):
            while chunk and not inflate.eof:
                count += len(inflate.decompress(chunk, 1 << 20))
                chunk = inflate.unconsumed_tail
                if count > MAX_INFLATED:
                    raise ValueError(
                        f"it unpacks to more than {MAX_INFLATED / 2**30:g} GB; save it uncompressed, or cut it into parts"
                    )


def windowed(pixels: Any, data: Any) -> Any:
    """Pixels of a dataset under its first window: 0 to the largest value of its stored bits.

    Raises:
        ValueError: If it has none, where pydicom would leave the pixels as they are.
    """
    from pydicom.pixels import apply_modality_lut, apply_windowing

    if "WindowCenter" not in data or "WindowWidth" not in data:
        raise ValueError("it has no window to apply; leave dicom_window out")
    pixels = apply_modality_lut(pixels, data)
    # else pydicom scales to the range in the units of these
    data.PixelRepresentation, data.RescaleSlope, data.RescaleIntercept, data.ModalityLUTSequence = 0, 1, 0, []
    return apply_windowing(pixels, data, index=0)


def without_values(reason: str) -> str:
    """A reason of pydicom's up to the first value that it quotes: a file may have a patient's name in any element.

    Names of elements and numbers are kept. The rest is cut, since a value may have quotation marks of its own.
    """
    from pydicom.datadict import DicomDictionary

    names = {entry[2] for entry in DicomDictionary.values()}
    for found in _QUOTED.finditer(reason):
        if found[2] not in names and not re.fullmatch(r"-?\d+", found[2]):
            return reason[: found.start()] + "..."
    return reason
