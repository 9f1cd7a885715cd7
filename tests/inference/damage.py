"""Files that are called images and are none."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def damaged() -> dict[str, bytes]:
    """Ten kinds of damage, by file name."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    files = {}
    for kind in ("png", "jpeg", "webp", "tiff"):
        buffer = io.BytesIO()
        noise.save(buffer, kind)
        files[kind] = buffer.getvalue()
    png = bytearray(files["png"])
    png[len(png) // 2] ^= 255  # a bit of the pixels, so that the checksum is wrong
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return {
        "empty.png": b"",
        "text.jpg": b"no image",
        "page.jpg": b"<!doctype html><title>404</title>",
        "zeros.png": bytes(1000),
        "cut.jpg": files["jpeg"][: len(files["jpeg"]) // 2],
        "cut.png": files["png"][: len(files["png"]) // 2],
        "cut.webp": files["webp"][: len(files["webp"]) // 2],
        "cut.tiff": files["tiff"][: len(files["tiff"]) // 2],
        "flipped.png": bytes(png),
        "bomb.png": bomb,
    }
