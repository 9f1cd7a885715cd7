"""Images larger than memory: tiles are read, segmented and merged in a stream, one band of rows after the other.

A network that pools over the whole image gets the tile in its place; docs/explanation/tiles.md measures what that changes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.images import SUFFIXES, ImageError, is_too_large, read_image
from ..data.rasters import Raster, Region, is_map, matching_bands, open_raster, pixels_of
from ..meta import IGNORE, Preprocess
from .scores import SegmentationModel, as_read, class_scores, decision_of, number_of_ids, reads_photos

CHUNK = 128
"""Most rows that are merged at once."""
BLOCK_BYTES = 2**29
"""Most bytes of a part of a file that is decoded for a window."""


class Tileable(Protocol):
    """An image that is read by regions, such as `pspnet_zoo.data.rasters.Raster`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, height, width)."""
        ...

    def read(self, region: Region) -> np.ndarray:
        """(bands, height, width) of a region."""
        ...


@dataclass(frozen=True)
class Tiling:
    """The way in which an image is cut into tiles.

    Raises:
        ValueError: If a number is out of its range.
    """

    tile: int = 1024
    """Side of a tile, in pixels; an image that is smaller is one smaller tile."""
    overlap: int = 256
    """Pixels that neighbouring tiles share, at most half of a tile."""
    blend: bool = True
    """Weight each tile by a raised cosine over the overlap, so that no seam shows. False averages the tiles evenly, as the sliding
    windows of `evaluate` do."""

    def __post_init__(self) -> None:
        if self.tile < 1 or not 0 <= self.overlap <= self.tile // 2:
            raise ValueError(
                f"tile is {self.tile} and overlap {self.overlap} pixels; the overlap is 0 to half of a tile of 1 or more"
            )

    def starts(self, size: int) -> list[int]:
        """First pixel of each tile along a side of `size` pixels; the last tile ends at the edge.

        Source of the rule: hszhao/semseg tool/test.py.
        """
        tile = min(self.tile, size)
        return [*range(0, size - tile, self.tile - self.overlap), size - tile]

    def weights(self, size: int) -> Tensor:
        """(tiles, tile) float32 weights of each tile's pixels along a side of `size` pixels, 0 to 1.

        From 0 to 1 they rise over the middle half of the overlap. The outer quarter, where a tile lacks its surroundings, is left
        to the neighbour; tiles at the edge of the image have no neighbour there, and count in full.
        """
        tile, starts = min(self.tile, size), self.starts(size)
        weights = torch.ones(len(starts), tile)
        if not self.blend or not self.overlap:
            return weights
        position = torch.arange(tile, dtype=torch.float64) + 0.5
        rise = ((position / self.overlap - 0.25) * 2).clamp(0, 1)
        rise = (0.5 - 0.5 * torch.cos(math.pi * rise)).float()
        weights[1:] *= rise
        weights[:-1] *= rise.flip(0)
        return weights


def tiling_for(preprocess: Preprocess, tile: int | None, overlap: int | None, blend: bool | None) -> Tiling | None:
    """The tiling that a user asks for; None for whole images.

    Args:
        preprocess: Of the network.
        tile: None for whole images.
        overlap: None for a quarter of the tile.
        blend: None for True.

    Raises:
        ValueError: If a number is out of its range, a tile has more pixels than the network reads, or an option lacks its tile.
    """
    if tile is None:
        for name, value in (("overlap", overlap), ("blend", blend)):
            if value is not None:
                raise ValueError(f"{name} is {value} and no tile is given; {name} is about tiles, such as tile 512")
        return None
    tiling = Tiling(tile, tile // 4 if overlap is None else overlap, blend is not False)
    if tile**2 > preprocess.max_pixels:
        most = math.isqrt(preprocess.max_pixels)
        raise ValueError(f"tile is {tile}; the network reads at most {preprocess.max_pixels:,} pixels, tiles of {most} or less")
    return tiling


def open_image(path: str | PathLike[str], preprocess: Preprocess) -> Raster:
    """An image as a network reads it: by windows where the file allows it, else decoded whole.

    A network of 8-bit RGB gets the pixels of `read_image`, from windows if the file is a GeoTIFF of three bands, or too large.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it cannot be read, or has other bands than the network reads.
        ImportError: If the extra `raster` is needed and missing.
    """
    path = Path(path)
    photos, too_large = reads_photos(preprocess), is_too_large(path)
    if photos and not too_large and not is_map(path):
        return pixels_of(path, np.moveaxis(read_image(path), -1, 0))
    if too_large and path.suffix.lower() not in (".tif", ".tiff", ".png", ".jpg", ".jpeg"):
        raise ImageError(f"'{path}' is too large to be decoded whole; windows are read of TIFF, PNG and JPEG: save it as TIFF")
    raster = open_raster(path)
    try:
        if photos and raster.has_alpha and raster.shape[0] == 4:
            raster.select((1, 2, 3))
        if photos and not too_large and (raster.shape[0] != 3 or raster.dtype != np.uint8) and path.suffix.lower() in SUFFIXES:
            pixels = pixels_of(path, np.moveaxis(read_image(path), -1, 0), raster)
            raster.close()
            return pixels
        if not photos or len(preprocess.mean) == 3:
            bands = matching_bands(raster, preprocess)
            if bands is not None:  # else those that are selected, which are all but the alpha
                raster.select(bands)
        elif (raster.shape[0], raster.dtype) != (3, np.uint8):
            raise ImageError(f"'{path}' has {raster.shape[0]} bands of {raster.dtype}; save it as 8-bit RGB to read it by windows")
        if raster.block_bytes > BLOCK_BYTES:
            raise ImageError(
                f"'{path}' is stored in parts of {raster.block_bytes / 1e9:.1f} GB, which every window would decode; store it in "
                f"tiles: rio convert --co tiled=yes '{path}' OUT.tif"
            )
    except BaseException:
        raster.close()
        raise
    return raster


def segment_raster(
    model: SegmentationModel, raster: Raster, tiling: Tiling, *, first_row: int = 0, tile_done: Callable[[int], None] | None = None
) -> Iterator[np.ndarray]:
    """Class ids of an open raster, a band of rows at a time; every row comes once, from the top.

    Args:
        model: Reads the bands of the raster, see `pspnet_zoo.data.rasters.matching_bands`.
        raster: Pixels without data are given to the network as its mean; they are 255 in the result.
        tiling: How it is cut; each tile is segmented like a whole image.
        first_row: See `merged_scores`.
        tile_done: See `merged_scores`.

    Yields:
        (rows, width) uint8 class ids.

    Raises:
        ImageError: If a tile cannot be read, or no pixel has data.
        ValueError: If the model is multi-label, or has more than 255 classes.
    """
    if number_of_ids(model) > IGNORE:
        raise ValueError(f"Rows of large images hold up to {IGNORE} classes, and the model has {number_of_ids(model)}")
    if decision_of(model).multilabel:
        raise ValueError(
            "Rows of large images have one class a pixel, and the model is multi-label; segment whole images, by Predictor(image)"
        )
    image = _Filled(raster, model.preprocess)
    if not any(raster.valid(region).any() for region in row_regions(raster)):
        raise ImageError(f"'{raster.path}' has no data in any pixel")

    def score(pixels: np.ndarray) -> Tensor:
        if image.is_empty:
            return torch.zeros(number_of_ids(model), *pixels.shape[1:])
        return _tile_scores(model, torch.from_numpy(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)))

    for top, scores in merged_scores(score, image, tiling, first_row=first_row, tile_done=tile_done):
        ids = decision_of(model)(scores[None])[0].to(torch.uint8).numpy()
        known = raster.valid(Region(top, 0, *ids.shape)).any(axis=0)
        yield np.where(known, ids, np.uint8(IGNORE))


def row_regions(image: Raster, rows: int = 512) -> Iterator[Region]:
    """The regions of an image from the top, each of so many rows or fewer."""
    _, height, width = image.shape
    for top in range(0, height, rows):
        yield Region(top, 0, min(rows, height - top), width)


def tiled_scores(model: SegmentationModel, pixels: Tensor, tiling: Tiling) -> Tensor:
    """(classes, H, W) scores of a (channels, H, W) image in memory, of its size and on the CPU."""

    class InMemory:
        shape = (pixels.shape[0], pixels.shape[1], pixels.shape[2])

        def read(self, region: Region) -> np.ndarray:
            top, left, height, width = region
            return pixels[:, top : top + height, left : left + width].numpy()

    bands = merged_scores(lambda tile: _tile_scores(model, torch.from_numpy(tile)), InMemory(), tiling)
    return torch.cat([scores for _, scores in bands], dim=1)


class _Filled:
    """A raster with the network's mean where there is no data.

    Attributes:
        is_empty: Whether the region that was read last has no data at all.
    """

    def __init__(self, raster: Raster, preprocess: Preprocess) -> None:
        self._raster, self._mean, self.shape = raster, preprocess.mean_color, raster.shape
        self.is_empty = False

    def read(self, region: Region) -> np.ndarray:
        pixels, valid = self._raster.filled(self._mean, region)
        self.is_empty = not valid.any()
        return pixels


def _tile_scores(model: SegmentationModel, pixels: Tensor) -> Tensor:
    scores = class_scores(model, as_read(pixels, model.preprocess)[None])
    if scores.shape[-2:] != pixels.shape[-2:]:  # shrunk for the network
        scores = F.interpolate(scores, size=pixels.shape[-2:], mode="bilinear")
    return scores[0].cpu()


def merged_scores(
    score: Callable[[np.ndarray], Tensor],
    image: Tileable,
    tiling: Tiling,
    *,
    first_row: int = 0,
    tile_done: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Scores of the classes for every pixel, a band of rows at a time; every row comes once, from the top.

    In memory are the scores of one row of tiles: classes x tile x width float32 numbers.

    Args:
        score: Maps (bands, h, w) pixels to (classes, h, w) float32 scores on the CPU.
        image: Read one tile after the other.
        tiling: How it is cut.
        first_row: Leave out the rows above, as after a run that was stopped; only tiles that reach below are computed.
        tile_done: Called after each tile with its new pixels, which add up to those of the image.

    Yields:
        The first row of a band, and its (classes, rows, width) scores.

    Raises:
        ValueError: If `score` gives another size than its tile.
    """
    _, height, width = image.shape
    tops, lefts = tiling.starts(height), tiling.starts(width)
    rows, columns = min(tiling.tile, height), min(tiling.tile, width)
    down, across = tiling.weights(height), tiling.weights(width)
    ends = [*tops[1:], height]  # the row at which the next row of tiles begins to add
    # a pixel's weights add up to a product, since every row of tiles has the same columns
    weight_of_rows, weight_of_columns = (_sums(w, s, n) for w, s, n in ((down, tops, height), (across, lefts, width)))
    total = torch.empty(0)
    base = done = first_row
    for top, end, in_rows in zip(tops, ends, down, strict=True):
        if top + rows <= first_row:
            continue
        total, base = _moved(total, base, top), top
        for left, next_left, in_columns in zip(lefts, [*lefts[1:], width], across, strict=True):
            weights = in_rows[:, None] * in_columns
            scores = score(image.read(Region(top, left, rows, columns)))
            if scores.shape[-2:] != (rows, columns):
                raise ValueError(f"The network gave {tuple(scores.shape)} for a tile of {rows}x{columns} pixels")
            if not total.numel():
                total = torch.zeros(len(scores), rows, width)
            total[:, :, left : left + columns] += scores * weights if tiling.blend else scores
            if tile_done:
                tile_done((end - top) * (next_left - left))
        for start in range(done, end, CHUNK):
            stop = min(start + CHUNK, end)
            yield start, total[:, start - base : stop - base] / (weight_of_rows[start:stop, None] * weight_of_columns)
        done = max(done, end)


def _sums(weights: Tensor, starts: list[int], size: int) -> Tensor:
    """(size,) sum of the tiles' weights at each pixel of a side."""
    total = torch.zeros(size)
    for start, each in zip(starts, weights, strict=True):
        total[start : start + len(each)] += each
    return total


def _moved(total: Tensor, base: int, top: int) -> Tensor:
    """The sums moved up to begin at the row `top`, with zeros below."""
    if total.numel() and (shift := top - base):
        kept = max(total.shape[1] - shift, 0)
        if kept:
            total[:, :kept] = total[:, shift:].clone()
        total[:, kept:] = 0
    return total
