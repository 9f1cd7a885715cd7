"""The arrays in a NumPy archive, before any of them is read."""

import math
import zipfile
from os import PathLike

import numpy as np


def npz_headers(path: str | PathLike[str]) -> dict[str, tuple[tuple[int, ...], int]]:
    """The shape of each array of an `.npz`, and its bytes: those of its header or of its file, whichever are more.

    A file of two hundred bytes can state an array of a terabyte, which `numpy.load` allocates.

    Raises:
        ValueError: If an array holds Python objects, which could run code, or has no header; other errors of a damaged file are
            those of zipfile and zlib.
    """
    found = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                continue
            with archive.open(entry) as array:
                version = np.lib.format.read_magic(array)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(array)
            if dtype.hasobject:
                raise ValueError(f"'{entry.filename}' holds Python objects, which are not opened; they could run code")
            found[entry.filename.removesuffix(".npy")] = (shape, max(math.prod(shape) * dtype.itemsize, entry.file_size))
    return found
