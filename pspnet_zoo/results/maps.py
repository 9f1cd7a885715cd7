"""Masks larger than memory as GeoTIFF, written from the top, a band of rows at a time; a run that was stopped resumes.

The bands that are done are kept in a hidden folder beside the map until it is whole. Needs the extra `raster`.
"""

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ..data.rasters import Raster, open_raster, quiet
from ..extras import missing_extra
from ..inference.tiles import row_regions
from ..meta import IGNORE, Labels
from ..storage.files import write_atomically
from .stamp import TIFF_TAG

BLOCK = 512
"""Side of a tile of the file, in pixels."""
CACHE = 128
"""Most megabytes of blocks that wait in memory to be written."""
_KEY = "made_of.json"


class MapWriter:
    """A GeoTIFF of class ids that appears under its name when it is whole; a context manager.

    The file is tiled and compressed, has the classes' colours, their names in the tag CLASS_NAMES, and 255 for no data. What an
    error, a signal or a power cut left is continued by the next run of the same image and model.

    Args:
        path: Ends in .tif or .tiff.
        size: (height, width) in pixels.
        labels: Names and colours of at most 255 classes.
        made_of: What the rows depend on, as JSON: digests of image and model, the tiling. Rows made of anything else are dropped.
            It is the file's stamp.
        crs: Coordinate reference system of the map, as rasterio has it; None for an image without coordinates.
        transform: Affine transform from pixels to coordinates, as rasterio has it; None for an image without.
        cloud_optimized: Write a cloud-optimised GeoTIFF with overviews, which takes a second pass.

    Attributes:
        next_row: The first row that is missing.

    Raises:
        ValueError: If the path or the number of classes does not fit.
        OSError: If another process writes the same map, or the folder cannot be written.
        ImportError: If the extra is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: tuple[int, int],
        labels: Labels,
        made_of: Mapping[str, Any],
        *,
        crs: Any = None,
        transform: Any = None,
        cloud_optimized: bool = False,
    ) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() not in (".tif", ".tiff"):
            raise ValueError(f"'{path}' does not end in .tif or .tiff, the format of maps")
        if len(labels) > IGNORE:
            raise ValueError(f"There are {len(labels)} classes; a map holds at most {IGNORE}")
        try:
            import rasterio.shutil
        except ImportError as error:
            raise missing_extra("Writing maps", "raster", error) from None
        self._rasterio, self._size, self._labels, self._cloud_optimized = rasterio, size, labels, cloud_optimized
        self._place = {name: value for name, value in (("crs", crs), ("transform", transform)) if value is not None}
        self._parts = self._path.with_name(f".{self._path.name}.parts")
        self._lock = FileLock(self._path.with_name(f".{self._path.name}.lock"))
        self._stamp = json.dumps(made_of, sort_keys=True)
        self._made_of = json.dumps({**made_of, "size": size}, sort_keys=True)

    def __enter__(self) -> "MapWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OSError(f"Another process writes '{self._path}'; wait for it, or choose another output") from None
        key = self._parts / _KEY
        if not key.is_file() or key.read_bytes() != self._made_of.encode():
            shutil.rmtree(self._parts, ignore_errors=True)
            self._parts.mkdir()
            write_atomically(key, self._made_of.encode())
        self.next_row = sum(map(len, self._bands()))
        for path in self._parts.glob("*.npz"):  # those behind a damaged one; the next ones may begin at other rows
            if int(path.stem.split("_")[0]) >= self.next_row:
                path.unlink()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                with self._rasterio.Env(GDAL_CACHEMAX=CACHE):
                    self._finish()
        finally:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def add(self, ids: np.ndarray) -> None:
        """Keep the rows from `next_row` on, (rows, width) uint8."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, ids=ids)
        write_atomically(self._parts / f"{self.next_row:09}_{len(ids):09}.npz", buffer.getvalue())
        self.next_row += len(ids)

    def _bands(self) -> Iterator[np.ndarray]:
        """Yield the bands from the top, up to a gap or a damaged file."""
        row = 0
        for path in sorted(self._parts.glob("*.npz")):
            first, rows = map(int, path.stem.split("_"))
            try:
                with path.open("rb") as file, np.load(file) as arrays:
                    ids = arrays["ids"]
            except Exception:  # a damaged file fails in ways that nobody lists
                return
            if first != row or ids.shape != (rows, self._size[1]):
                return
            yield ids
            row += rows

    def _finish(self) -> None:
        height, width = self._size
        if self.next_row != height:
            raise ValueError(f"'{self._path}' has {self.next_row} of {height} rows; it is not whole")
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part.tif")
        whole = part.with_suffix(".cog.tif")
        block = BLOCK if min(self._size) >= BLOCK else None
        options = {"tiled": True, "blockxsize": block, "blockysize": block} if block else {}
        try:
            with quiet():  # of images without coordinates
                file = self._rasterio.open(
                    part, "w", driver="GTiff", width=width, height=height, count=1, dtype="uint8", nodata=IGNORE,
                    compress="deflate", BIGTIFF="IF_SAFER", **options, **self._place,
                )  # fmt: skip
            with file:
                file.write_colormap(1, {i: (*color, 255) for i, color in enumerate(self._labels.colors)})
                file.update_tags(CLASS_NAMES=json.dumps(self._labels.names), **{TIFF_TAG: self._stamp})
                for top, rows in self._aligned(block or height):
                    file.write(rows, 1, window=self._rasterio.windows.Window(0, top, width, len(rows)))
            if self._cloud_optimized:
                with quiet():
                    self._rasterio.shutil.copy(part, whole, driver="COG", compress="deflate", overview_resampling="nearest")
                os.replace(whole, part)
            with part.open("rb+") as written:  # the rows are removed next
                os.fsync(written.fileno())
            os.replace(part, self._path)
        finally:
            part.unlink(missing_ok=True)
            whole.unlink(missing_ok=True)
        shutil.rmtree(self._parts)

    def _aligned(self, block: int) -> Iterator[tuple[int, np.ndarray]]:
        """All rows in whole blocks, since a block that is written twice is stored twice."""
        top, waiting = 0, np.empty((0, self._size[1]), np.uint8)
        for ids in self._bands():
            waiting = np.concatenate([waiting, ids])
            while len(waiting) >= block:
                yield top, waiting[:block]
                top, waiting = top + block, waiting[block:]
        if top + len(waiting) != self._size[0]:
            raise OSError(f"The rows kept in '{self._parts}' for '{self._path}' were damaged meanwhile; run the same command again")
        if len(waiting):
            yield top, waiting


def map_counts(path: Path) -> tuple[tuple[int, int], np.ndarray]:
    """Height and width of what `MapWriter` wrote, and the (256,) numbers of its pixels by id."""
    counts = np.zeros(IGNORE + 1, np.int64)
    with open_raster(path) as raster:
        for region in row_regions(raster):
            counts += np.bincount(raster.read(region).ravel(), minlength=IGNORE + 1)
        return raster.shape[1:], counts


def quick_look(raster: Raster, mask: Path, mean: Sequence[float], side: int) -> tuple[np.ndarray, np.ndarray]:
    """A small image of a large one, and of its mask.

    Args:
        raster: The open image.
        mask: Its map, as `MapWriter` writes it.
        mean: Of the network.
        side: Most rows and columns; every n-th one is taken, the same of both.

    Returns:
        (h, w, bands) of the image's own type, masked where there is no data, and (h, w) class ids.
    """
    step = -(-max(raster.shape[1:]) // side)
    images, ids = [], []
    with open_raster(mask) as classes:
        for region in row_regions(raster):
            rows = slice(-region.top % step, None, step)
            # copies, since views would keep the whole image in memory
            pixels, valid = (part[:, rows, ::step].transpose(1, 2, 0).copy() for part in raster.filled(mean, region))
            images.append(np.ma.MaskedArray(pixels, ~valid))
            ids.append(classes.read(region)[0][rows, ::step].copy())
    return np.ma.concatenate(images), np.concatenate(ids)
