"""Statistics of the pixel values of a dataset, band by band, and the preprocessing that follows from them."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..meta import Preprocess
from ..storage.files import write_atomically
from .images import ImageError
from .rasters import Raster, Region, open_raster

PREPROCESS_FILE = "preprocess.json"
"""Beside the images of a dataset: how they are read, as `Preprocess`."""

_ROWS_OF = 2**24  # pixels that are decoded at once
_SAMPLE = 2**16  # pixels of each file for percentiles
_KEPT = 2**25  # most values of all bands that are kept for them; of several hundred files
_WHITE = {"uint8": 255.0, "uint16": 65535.0}


@dataclass
class BandStats:
    """The valid pixel values of one band, over all files."""

    name: str
    """Name in the files, or the number from 1."""
    count: int = 0
    no_data: int = 0
    """Number of pixels without data."""
    minimum: float = np.inf
    maximum: float = -np.inf
    mean: float = 0.0
    spread: float = 0.0
    """Sum of the squared differences from the mean."""
    sample: list[np.ndarray] = field(default_factory=list, repr=False)
    """Values spread evenly over each file, for the percentiles."""
    kept: int = 0
    """Number of values in the sample."""
    step: int = 1
    """Distance of the values that are kept; it doubles where they become too many."""

    @property
    def std(self) -> float:
        """Standard deviation."""
        return (self.spread / self.count) ** 0.5 if self.count else 0.0

    def percentiles(self, wanted: Sequence[float] = (2, 50, 98)) -> list[float]:
        """Percentiles of the sample; NaN where no pixel is valid."""
        values = np.concatenate(self.sample) if self.sample else np.empty(0)
        return np.percentile(values, wanted).tolist() if values.size else [np.nan] * len(wanted)

    def add(self, values: np.ndarray, no_data: int) -> None:
        """Take in valid values, and the number of pixels that are not. The sums are merged as Chan et al. 1979 do."""
        self.no_data += no_data
        if not values.size:
            return
        values = values.astype(np.float64)
        mean, count = values.mean(), self.count + values.size
        shift = mean - self.mean
        self.spread += ((values - mean) ** 2).sum() + shift**2 * self.count * values.size / count
        self.mean += shift * values.size / count
        self.count = count
        self.minimum, self.maximum = min(self.minimum, float(values.min())), max(self.maximum, float(values.max()))

    def keep(self, values: np.ndarray, most: int) -> None:
        """Take valid values into the sample, which is thinned out evenly where it has more than `most`."""
        self.sample.append(values[:: self.step].copy())
        self.kept += len(self.sample[-1])
        while self.kept > most:
            self.sample, self.step = [np.concatenate(self.sample)[::2].copy()], 2 * self.step
            self.kept = len(self.sample[0])


@dataclass
class PixelStats:
    """All bands of the readable files of a split."""

    dtype: str
    bands: list[BandStats]
    named: bool
    """Whether the files name their bands."""
    files: int = 0

    def preprocess(self) -> Preprocess:
        """Mean and standard deviation of each band; white is the largest value of 8 and 16 unsigned bits, else 1.

        A constant band is divided by 1.
        """
        white = _WHITE.get(self.dtype, 1.0)
        return Preprocess(
            mean=tuple(band.mean / white for band in self.bands),
            std=tuple(band.std / white or 1.0 for band in self.bands),
            white=white,
            bands=tuple(band.name for band in self.bands) if self.named else (),
        )


def pixel_stats(
    files: Sequence[Path], *, bands: Sequence[int | str] | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[PixelStats | None, list[str]]:
    """Read every file once, a few rows at a time.

    Args:
        files: Images of one set, as `open_raster` takes them.
        bands: The bands to read; None for all.
        progress: Called with the number of files read and their total.

    Returns:
        The statistics, None if no file can be read; and a line for each file that cannot, or whose bands or type differ from the
        first one's.
    """
    stats: PixelStats | None = None
    problems = []
    for done, path in enumerate(files, 1):
        try:
            with open_raster(path, bands=bands) as raster:
                names = raster.bands or tuple(str(band) for band in bands or range(1, raster.shape[0] + 1))
                if stats is None:
                    stats = PixelStats(str(raster.dtype), [BandStats(name) for name in names], bool(raster.bands))
                expected = tuple(band.name for band in stats.bands)
                if (names, str(raster.dtype)) != (expected, stats.dtype):
                    raise ImageError(
                        f"'{path}' has the bands {', '.join(names)} of {raster.dtype}; the files before it have "
                        f"{', '.join(expected)} of {stats.dtype}"
                    )
                _add(stats, raster)
        except (ValueError, OSError) as error:
            problems.append(str(error))
        except MemoryError:
            problems.append(f"'{path}' needs more memory than there is; cut it into parts")
        if progress:
            progress(done, len(files))
    return (stats if stats and stats.files else None), problems


def _add(stats: PixelStats, raster: Raster) -> None:
    read = [(raster.read(region), raster.valid(region)) for region in _regions(raster)] if _fits(raster) else None
    for pixels, valid in read or ((raster.read(region), raster.valid(region)) for region in _regions(raster)):
        step = max(valid[0].size * len(stats.bands) // _SAMPLE, 1)
        for band, values, known in zip(stats.bands, pixels, valid, strict=True):
            chosen = values[known]
            band.add(chosen, int(known.size - chosen.size))
            band.keep(chosen[::step], _KEPT // len(stats.bands))
    stats.files += 1


def _fits(raster: Raster) -> bool:
    """Whether a file is small enough to be read whole before any of it is counted, so that a damaged one counts for nothing."""
    return raster.shape[1] * raster.shape[2] <= _at_once(raster)


def _at_once(raster: Raster) -> int:
    """The number of pixels that are read at once: fewer of images of many bands."""
    return _ROWS_OF // max(raster.shape[0] * raster.dtype.itemsize // 16, 1)


def _regions(raster: Raster) -> Iterator[Region]:
    _, height, width = raster.shape
    rows = max(_at_once(raster) // width, 1)
    for top in range(0, height, rows):
        yield Region(top, 0, min(rows, height - top), width)


def write_preprocess(folder: Path, preprocess: Preprocess) -> Path:
    """Write `PREPROCESS_FILE` into a dataset's folder; the file."""
    path = folder / PREPROCESS_FILE
    write_atomically(path, json.dumps(asdict(preprocess), indent=1).encode())
    return path


def read_preprocess(folder: Path) -> Preprocess | None:
    """Read what `write_preprocess` wrote; None where there is no such file.

    Raises:
        ValueError: If the file says something else; the message names it.
    """
    path = folder / PREPROCESS_FILE
    if not path.is_file():
        return None
    try:
        return Preprocess.from_dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"'{path}' does not state a preprocessing: {error}. Remove it, and write it again by pspnet-zoo data stats --write"
        ) from None
