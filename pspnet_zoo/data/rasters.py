"""Images of any bands and depth, whole or by windows: TIFF and GeoTIFF, PNG, JPEG, DICOM, NumPy arrays.

TIFF, PNG and JPEG are read by rasterio: GDAL decodes only the blocks that a window touches, and has every compression in use. DICOM
is read by pydicom, whose decoders here need no licence. Both come with the extra `raster`; `.npy` and `.npz` need nothing.

What a file says of people (names and birth dates in DICOM, GPS positions) is never read out of it.
"""

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..extras import missing_extra
from ..meta import Preprocess
from ..storage.dicom import refuse_inflating, windowed, without_values
from ..storage.npz import npz_headers
from .images import ImageError, image_orientation

SUFFIXES = frozenset({".dcm", ".jpeg", ".jpg", ".npy", ".npz", ".png", ".tif", ".tiff"})
"""File name endings that `open_raster` reads, lower case."""

MAX_BYTES = 2**32
"""Most bytes that one read may decode; larger files are read by windows."""

_WARNINGS = threading.Lock()  # catch_warnings changes the whole process
_DRIVERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "GTiff", ".tiff": "GTiff"}
_GDAL: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",  # no other file than the one that was named
    "GDAL_CACHEMAX": 192,  # megabytes; GDAL's default is a twentieth of the memory
}


class Region(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Raster:
    """An open file of bands; a context manager. One thread at a time may use it.

    Attributes:
        path: The file.
        shape: (bands, height, width) of what `read` gives.
        dtype: Type of the pixel values.
        bands: Names of the bands that are read; empty where the file names none.
        crs: Coordinate reference system of a GeoTIFF, as rasterio has it; None elsewhere.
        transform: Affine transform of a GeoTIFF from pixels to coordinates; None elsewhere.
        has_alpha: Whether the last band says where the others have data.
        block_bytes: Size of the smallest part of the file that can be decoded.

    Args:
        path: The file.
        source: Reads it.
        bands: Bands to read, in this order: names, or numbers from 1 as GDAL counts; None for all.

    Raises:
        ImageError: If the file has no such band.
    """

    def __init__(self, path: Path, source: "_Gdal | _Array", bands: Sequence[int | str] | None) -> None:
        self.path, self._source = path, source
        self.dtype: np.dtype = source.dtype
        self.crs, self.transform = source.crs, source.transform
        self.has_alpha: bool = source.alpha is not None
        self.block_bytes: int = source.block_bytes
        self.select(bands)

    @property
    def is_map(self) -> bool:
        """Whether the file has coordinates."""
        return self.crs is not None or self.transform is not None

    def select(self, bands: Sequence[int | str] | None) -> None:
        """Read other bands of the file from now on; see the class."""
        source = self._source
        self._indexes = [self._index(band) for band in bands] if bands is not None else list(range(source.count))
        names = [source.names[i] for i in self._indexes]
        self.bands: tuple[str, ...] = tuple(name for name in names if name) if all(names) else ()
        self.shape = (len(self._indexes), source.height, source.width)

    def __enter__(self) -> "Raster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def read(self, region: Region | None = None) -> np.ndarray:
        """(bands, height, width) of a region, None for all, in the file's own type.

        Raises:
            ImageError: If it cannot be decoded, is larger than `MAX_BYTES`, or a valid pixel is NaN or infinite.
            ValueError: If the region leaves the image.
        """
        region = self._checked(region)
        pixels = self._decoded(lambda: self._source.read(self._indexes, region))
        if pixels.dtype.kind == "f" and not (finite := np.isfinite(pixels)).all():
            wrong = int((~finite & self.valid(region)).sum())
            if wrong:
                raise ImageError(
                    f"'{self.path}' has {wrong} pixel values that are NaN or infinite; mark them as no-data, or replace them"
                )
        return pixels

    def valid(self, region: Region | None = None) -> np.ndarray:
        """(bands, height, width) bool of a region, None for all: False where the file has no data.

        Raises:
            ImageError: If it cannot be decoded.
            ValueError: If the region leaves the image.
        """
        region = self._checked(region)
        return self._decoded(lambda: self._source.valid(self._indexes, region))

    def filled(self, values: Sequence[float], region: Region | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The pixels and `valid` of a region, with a value for each band where it has no data."""
        pixels, valid = self.read(region), self.valid(region)
        fill = np.array(values)[:, None, None].astype(pixels.dtype)
        return (pixels if valid.all() else np.where(valid, pixels, fill)), valid

    def _index(self, band: int | str) -> int:
        names = self._source.names
        if isinstance(band, str) and band in names:
            return names.index(band)
        if isinstance(band, int) and 1 <= band <= len(names):
            return band - 1
        known = ", ".join(filter(None, names)) or "no names"
        raise ImageError(f"'{self.path}' has no band {band!r}; it has {len(names)} bands ({known})")

    def _checked(self, region: Region | None) -> Region:
        _, height, width = self.shape
        region = region or Region(0, 0, height, width)
        top, left, rows, columns = region
        if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:
            raise ValueError(f"{region} leaves the {height}x{width} pixels of '{self.path}'")
        if (size := len(self._indexes) * rows * columns * self.dtype.itemsize) > MAX_BYTES:
            raise ImageError(f"'{self.path}' takes {size / 1e9:.0f} GB at once; read it by windows")
        return region

    def _decoded(self, read: Any) -> np.ndarray:
        try:
            return read()
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # decoders raise whatever comes first
            raise ImageError(f"'{self.path}' cannot be decoded: {_reason(error)}") from None


def open_raster(path: str | PathLike[str], *, bands: Sequence[int | str] | None = None, dicom_window: bool = False) -> Raster:
    """A file of bands; nothing is decoded before it is asked for.

    Args:
        path: Ends in one of `SUFFIXES`. An `.npz` holds one array, or one named `image`. Arrays are (H, W) or (bands, H, W).
        bands: Bands to read, in this order: names, or numbers from 1 as GDAL counts; None for all.
        dicom_window: Apply the first window of a DICOM file, 0 to the largest value of its stored bits.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is not an image of bands, or lacks a band; the message names it.
        ImportError: If the extra is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file '{path}'")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageError(f"'{path}' is not a raster file; its name ends in none of {', '.join(sorted(SUFFIXES))}")
    if dicom_window and suffix != ".dcm":
        raise ImageError(f"'{path}' is no DICOM file, so it has no window to apply")
    try:
        with quiet():  # of files without coordinates; pydicom's warnings quote values that may be names
            source = _open(path, suffix, dicom_window)
    except (ImageError, ImportError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever comes first
        reason = without_values(_reason(error)) if suffix == ".dcm" else _reason(error)
        raise ImageError(f"'{path}' cannot be read: {reason}") from None
    try:
        return Raster(path, source, bands)
    except ImageError:
        source.close()
        raise


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings, in one thread at a time."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_map(path: Path) -> bool:
    """Whether a file is a TIFF that states coordinates; False where it cannot be read, or the extra is missing."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        with open_raster(path) as raster:
            return raster.is_map
    except (ValueError, OSError, ImportError):
        return False


def pixels_of(path: Path, pixels: np.ndarray, like: Raster | None = None) -> Raster:
    """(bands, height, width) in memory as the raster of a file, with the coordinates of another one."""
    return Raster(path, _Array(pixels, like), None)


def matching_bands(raster: Raster, preprocess: Preprocess) -> Sequence[int | str] | None:
    """The bands of a file that a network reads, for `open_raster`; None for all.

    Bands are matched by name where both sides have names, else by their number.

    Raises:
        ImageError: If the file has other bands, or pixel values of another range than the network reads; it names both.
    """
    channels, count = len(preprocess.mean), raster.shape[0]
    if (raster.dtype == np.uint8) != (preprocess.white == 255):
        raise ImageError(
            f"'{raster.path}' has {raster.dtype} pixels; the network reads values in which white is {preprocess.white:g}"
        )
    if preprocess.bands and raster.bands:
        if missing := [name for name in preprocess.bands if name not in raster.bands]:
            raise ImageError(
                f"'{raster.path}' has the bands {', '.join(raster.bands)}; the network also reads {', '.join(missing)}"
            )
        return preprocess.bands
    if count != channels:
        names = f" ({', '.join(preprocess.bands)})" if preprocess.bands else ""
        raise ImageError(f"'{raster.path}' has {count} bands; the network reads {channels}{names}")
    return None


def read_bands(path: Path, preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """An image for a network: the bands that it reads, and where there is data.

    Returns:
        (bands, H, W) of the file's own type, with the network's mean where there is no data; and (H, W) bool, False where no band
        has data.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it cannot be read, has other bands than the network reads, or no data at all.
        ImportError: If the extra is not installed.
    """
    with open_raster(path) as raster:
        raster.select(matching_bands(raster, preprocess))
        pixels, valid = raster.filled(preprocess.mean_color)
    if not valid.any():
        raise ImageError(f"'{path}' has no data in any pixel")
    return pixels, np.asarray(valid.any(axis=0))


def _open(path: Path, suffix: str, dicom_window: bool) -> "_Gdal | _Array":
    if suffix == ".dcm":
        return _Array(_dicom(path, dicom_window))
    if suffix == ".npy":
        return _Array(_bands_first(path, np.load(path, mmap_mode="r", allow_pickle=False)))
    if suffix == ".npz":
        return _Array(_bands_first(path, _from_archive(path)))
    return _Gdal(path, _DRIVERS[suffix])


class _Array:
    """Bands in memory, or in a file that is mapped into it."""

    alpha = None
    block_bytes = 0

    def __init__(self, pixels: np.ndarray, like: Raster | None = None) -> None:
        self._pixels = pixels
        self.crs, self.transform = (like.crs, like.transform) if like else (None, None)
        self.count, self.height, self.width = pixels.shape
        self.dtype = pixels.dtype
        self.names = [""] * self.count

    def read(self, indexes: list[int], region: Region) -> np.ndarray:
        top, left, height, width = region
        return np.ascontiguousarray(self._pixels[indexes, top : top + height, left : left + width])

    def valid(self, indexes: list[int], region: Region) -> np.ndarray:
        return np.ones((len(indexes), region.height, region.width), bool)

    def close(self) -> None:
        pass


class _Gdal:
    """A TIFF or PNG file, by rasterio."""

    def __init__(self, path: Path, driver: str) -> None:
        try:
            import rasterio
            from rasterio.enums import ColorInterp, Interleaving, MaskFlags
            from rasterio.windows import Window
        except ImportError as error:
            raise missing_extra(f"'{path}'", "raster", error) from None
        self._window: Any = Window
        self._env = rasterio.Env(**_GDAL)
        with self._env:
            self._file = rasterio.open(path, driver=driver)  # one driver, since others' formats name further files
        file = self._file
        if len(set(file.dtypes)) > 1 or np.dtype(file.dtypes[0]).kind not in "uif":
            file.close()
            raise ImageError(f"'{path}' has bands of {', '.join(sorted(set(file.dtypes)))}; they must be of one real type")
        stated = file.tags().get("EXIF_Orientation", "1") if driver == "JPEG" else image_orientation(path)
        if int(stated) in range(2, 9):
            file.close()
            raise ImageError(f"'{path}' is to be turned as its tag Orientation states, which needs it whole; save it upright")
        self.count, self.height, self.width = file.count, file.height, file.width
        self.dtype = np.dtype(file.dtypes[0])
        self.names = [name or "" for name in file.descriptions]
        self.crs = file.crs
        self.transform = None if file.transform.is_identity else file.transform
        alpha = [i for i, kind in enumerate(file.colorinterp) if kind == ColorInterp.alpha]
        rows, columns = file.block_shapes[0]
        self.block_bytes = rows * columns * self.dtype.itemsize * (self.count if file.interleaving == Interleaving.pixel else 1)
        self.alpha = alpha[0] if alpha and any(MaskFlags.alpha in flags for flags in file.mask_flag_enums) else None

    def read(self, indexes: list[int], region: Region) -> np.ndarray:
        with self._env:
            return self._file.read([i + 1 for i in indexes], window=self._place(region))

    def valid(self, indexes: list[int], region: Region) -> np.ndarray:
        if self.alpha in indexes:  # read as a band, it says nothing of the others
            return np.ones((len(indexes), region.height, region.width), bool)
        with self._env:
            return self._file.read_masks([i + 1 for i in indexes], window=self._place(region)) > 0

    def _place(self, region: Region) -> Any:
        return self._window(region.left, region.top, region.width, region.height)

    def close(self) -> None:
        self._file.close()


def _bands_first(path: Path, pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind not in "uif" or pixels.ndim not in (2, 3) or not pixels.size:
        raise ImageError(f"'{path}' holds {pixels.dtype} of the shape {pixels.shape}; it must be numbers, (H, W) or (bands, H, W)")
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] <= 4 < min(pixels.shape[:2]):
        raise ImageError(f"'{path}' has the shape {pixels.shape}, which looks like (H, W, bands); store it as (bands, H, W)")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _from_archive(path: Path) -> np.ndarray:
    sizes = {name: size for name, (_, size) in npz_headers(path).items()}
    name = "image" if "image" in sizes else next(iter(sizes)) if len(sizes) == 1 else None
    if name is None:
        raise ImageError(f"'{path}' holds the arrays {', '.join([*sizes][:5]) or 'none'}; it must hold one, or one named 'image'")
    if sizes[name] > MAX_BYTES:
        raise ImageError(f"'{path}' unpacks to {sizes[name] / 1e9:.0f} GB; store it as .npy, which is read by windows")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[name]


def _dicom(path: Path, window: bool) -> np.ndarray:
    try:
        import pydicom
        from pydicom.pixels import apply_color_lut, apply_modality_lut
    except ImportError as error:
        raise missing_extra(f"'{path}'", "raster", error) from None
    refuse_inflating(path)
    data = pydicom.dcmread(path)
    values = [int(data.get(key, 1) or 1) for key in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated")]
    if values[0] * values[1] * values[2] * values[3] * values[4] // 8 > MAX_BYTES:
        raise ImageError(f"'{path}' is larger than {MAX_BYTES / 1e9:.0f} GB; cut it into parts")
    if values[3] > 1:
        raise ImageError(f"'{path}' holds {values[3]} frames; store each as a file of its own")
    pixels, kind = data.pixel_array, data.PhotometricInterpretation
    pixels = apply_color_lut(pixels, data) if kind == "PALETTE COLOR" else pixels
    if pixels.ndim == 3:
        return np.moveaxis(pixels, -1, 0)
    if (white := 2**data.BitsStored - 1) and window:
        pixels = windowed(pixels, data).astype(np.float32)
        return (white - pixels if kind == "MONOCHROME1" else pixels)[None]
    if kind == "MONOCHROME1":  # its smallest value is white
        pixels = (white - pixels if data.PixelRepresentation == 0 else -1 - pixels).astype(pixels.dtype)
    if (data.get("RescaleSlope", 1), data.get("RescaleIntercept", 0)) == (1, 0) and "ModalityLUTSequence" not in data:
        return pixels[None]
    return apply_modality_lut(pixels, data).astype(np.float32)[None]


def _reason(error: Exception) -> str:
    """One line of an error of a decoder."""
    return " ".join(str(error).split())[:200] or type(error).__name__
