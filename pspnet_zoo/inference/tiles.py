"""Images larger than memory: tiles are read, segmented and merged in a stream, one band of rows after the other.

A network that pools over the whole image sees the tile in its place; docs/how-to/segment-maps.md measures what that changes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.rasters import Raster, Region
from ..meta import IGNORE
from .scores import SegmentationModel, class_scores, decisive, threshold_of


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
        ImageError: If a tile cannot be read.
    """
    mean = model.preprocess.mean_color

    class Filled:
        shape = raster.shape

        def read(self, region: Region) -> np.ndarray:
            return raster.filled(mean, region)[0]

    def score(pixels: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32))
        scores = class_scores(model, tensor[None])
        if scores.shape[-2:] != tensor.shape[-2:]:  # shrunk for the network
            scores = F.interpolate(scores, size=tensor.shape[-2:], mode="bilinear")
        return scores[0].cpu()

    for top, scores in merged_scores(score, Filled(), tiling, first_row=first_row, tile_done=tile_done):
        ids = decisive(scores[None], threshold_of(model))[0].argmax(dim=0).numpy().astype(np.uint8)
        known = raster.valid(Region(top, 0, *ids.shape)).any(axis=0)
        yield np.where(known, ids, np.uint8(IGNORE))


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
    total, weight = torch.empty(0), torch.empty(0)
    base = done = first_row
    for top, end, in_rows in zip(tops, ends, down, strict=True):
        if top + rows <= first_row:
            continue
        total, weight, base = _moved(total, weight, base, top, rows, width)
        for left, next_left, in_columns in zip(lefts, [*lefts[1:], width], across, strict=True):
            weights = in_rows[:, None] * in_columns
            scores = score(image.read(Region(top, left, rows, columns)))
            if scores.shape[-2:] != (rows, columns):
                raise ValueError(f"The network gave {tuple(scores.shape)} for a tile of {rows}x{columns} pixels")
            if not total.numel():
                total, weight = torch.zeros(len(scores), rows, width), torch.zeros(rows, width)
            total[:, :, left : left + columns] += scores * weights if tiling.blend else scores
            weight[:, left : left + columns] += weights
            if tile_done:
                tile_done((end - top) * (next_left - left))
        if end > done:
            yield done, total[:, done - base : end - base] / weight[done - base : end - base]
            done = end


def _moved(total: Tensor, weight: Tensor, base: int, top: int, rows: int, width: int) -> tuple[Tensor, Tensor, int]:
    """The sums moved up to begin at the row `top`, with zeros below."""
    if total.numel() and (shift := top - base):
        for sums in (total, weight):
            kept = rows - shift
            if kept > 0:
                sums[..., :kept, :] = sums[..., shift:, :].clone()
            sums[..., max(kept, 0) :, :] = 0
    return total, weight, top
