"""Datasets of files: every image has a mask, and the ids in the masks are translated to class ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ..meta import IGNORE, Preprocess
from . import rasters
from .images import SUFFIXES, ImageError, read_class_masks, read_image, read_mask
from .labels import Labels

_ONLY_RASTERS = rasters.SUFFIXES - SUFFIXES
_TIFF = (".tif", ".tiff")
_NO_DATA_COLOR = (123.675, 116.28, 103.53)
"""RGB, 0 to 255, where an 8-bit GeoTIFF has no data: ImageNet's mean, which is that of most networks and so what `Predictor` gives
them there."""


@dataclass(frozen=True)
class Pairs:
    """The files of one split, and how to read them."""

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    """The mask of each image, whether the file exists or not; empty for a split without ground truth."""
    labels: Labels
    ids: Mapping[int, int]
    """The class id, 255 if ignored, of each id that a mask may hold."""
    preprocess: Preprocess | None = None
    """Preprocessing of images that are not 8-bit RGB; see `pspnet_zoo.data.stats`."""


class PairedFiles(Dataset):
    """The images and masks of a split.

    Items are (Image, Mask (H, W) uint8 class ids, 255 where ignored), as tv_tensors; of multi-label, the mask is (classes, H, W), 1
    where a pixel is of the class. The image is (3, H, W) uint8 RGB, or (bands, H, W) of the files' own type where the dataset
    states its preprocessing; no-data pixels are ignored in the mask, and have the mean color in the image.

    Args:
        pairs: The files; `pspnet_zoo.data.open.open_dataset` finds those of a layout.

    Raises:
        FileNotFoundError: If the mask of an image is missing.
        ImageError: On reading an item, if a file is unreadable, a mask's size is not its image's, or it holds an unknown id.
        ValueError: On reading an item of a split without ground truth.
    """

    def __init__(self, pairs: Pairs) -> None:
        for image, mask in zip(pairs.images, pairs.masks, strict=bool(pairs.masks)):
            _require_mask(image, mask)
        self.images, self.masks, self.labels, self.ids = pairs.images, pairs.masks, pairs.labels, pairs.ids
        self.preprocess = pairs.preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        image, mask = read_pair(self.images[index], self._mask_file(index), self.labels, self.ids, self.preprocess)
        return tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(mask))

    def window_size(self, index: int) -> tuple[int, int] | None:
        """Height and width of an image whose regions can be read, see `window`; None for one that is decoded whole."""
        path = self.images[index]
        if path.suffix.lower() not in rasters.SUFFIXES or (self.preprocess is None and path.suffix.lower() not in _TIFF):
            return None
        try:
            with self._open(path) as raster:
                return raster.shape[1], raster.shape[2]
        except (ValueError, OSError, ImportError):  # reading it whole says what is wrong
            return None

    def window(self, index: int, region: rasters.Region) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """A region of an item, without decoding the rest of its image."""
        path, mask_file = self.images[index], self._mask_file(index)
        with self._open(path) as raster:
            if self.preprocess is None and not raster.is_map:  # a photo, which is read without its no-data
                pixels, known = raster.read(region), np.True_
            else:
                pixels, valid = raster.filled(self.preprocess.mean_color if self.preprocess else _NO_DATA_COLOR, region)
                known = valid.any(axis=0)
            size = raster.shape[1:]
        if self.labels.multilabel:
            whole = read_ids(mask_file, self.labels, self.ids)
            _require_size(whole.shape[-2:], mask_file, size)
            ids = whole[:, region.top : region.top + region.height, region.left : region.left + region.width]
        else:
            ids = _translate(_read_mask_window(mask_file, region, size), mask_file, self.ids)
        ids = np.where(known, ids, np.uint8(IGNORE))
        return tv_tensors.Image(torch.from_numpy(pixels)), tv_tensors.Mask(torch.from_numpy(ids))

    def _open(self, path: Path) -> rasters.Raster:
        raster = rasters.open_raster(path)
        try:
            if self.preprocess is not None:
                raster.select(rasters.matching_bands(raster, self.preprocess))
            elif not _select_rgb(raster):
                raise ImageError(f"'{path}' has {raster.shape[0]} bands of {raster.dtype}; windows are read of 8-bit RGB")
        except ImageError:
            raster.close()
            raise
        return raster

    def mask(self, index: int) -> tv_tensors.Mask:
        """The second of an item, without reading the image."""
        return tv_tensors.Mask(torch.from_numpy(read_ids(self._mask_file(index), self.labels, self.ids)))

    def _mask_file(self, index: int) -> Path:
        if not self.masks:
            raise ValueError(f"'{self.images[index]}' has no ground truth in this split, which has images only; see .images")
        return self.masks[index]


def read_pair(
    image_file: Path, mask_file: Path, labels: Labels, ids: Mapping[int, int], preprocess: Preprocess | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB or (H, W, bands), and the mask as `read_ids` reads it, 255 where there is no data.

    Raises:
        FileNotFoundError: If a file is missing.
        ImageError: If a file is unreadable, the sizes differ, or the mask holds an id that is not in `ids`.
    """
    _require_mask(image_file, mask_file)
    (image, known), mask = _read_pixels(image_file, preprocess), read_ids(mask_file, labels, ids)
    _require_size(mask.shape[-2:], mask_file, image.shape[:2])
    return image, mask if known is None else np.where(known, mask, np.uint8(IGNORE))


def _read_pixels(path: Path, preprocess: Preprocess | None) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, channels), and where there is data; None for everywhere."""
    if preprocess is not None:
        pixels, known = rasters.read_bands(path, preprocess)
        return np.moveaxis(pixels, 0, -1), known
    if path.suffix.lower() in _ONLY_RASTERS:
        raise ImageError(f"'{path}' is no 8-bit RGB image; state how it is read: pspnet-zoo data stats DIR --write")
    return _read_rgb_map(path) or (read_image(path), None)


def _read_rgb_map(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(H, W, 3) uint8 of a GeoTIFF, and where it has data, as `pspnet_zoo.inference.predictor` reads it; None for other files."""
    if not rasters.is_map(path):
        return None
    with rasters.open_raster(path) as raster:
        if not _select_rgb(raster):
            return None
        pixels, valid = raster.filled(_NO_DATA_COLOR)
    return np.moveaxis(pixels, 0, -1), np.asarray(valid.any(axis=0))


def _select_rgb(raster: rasters.Raster) -> bool:
    """Whether a file has three bands of 8 bits, but for the alpha of a GeoTIFF, which is no longer read then."""
    if raster.is_map and raster.has_alpha and raster.shape[0] == 4:
        raster.select((1, 2, 3))
    return (raster.shape[0], raster.dtype) == (3, np.uint8)


def _read_mask_window(mask_file: Path, region: rasters.Region, size: tuple[int, ...]) -> np.ndarray:
    if mask_file.suffix.lower() in _TIFF:
        with rasters.open_raster(mask_file) as raster:
            _require_size(raster.shape[1:], mask_file, size)
            if raster.shape[0] != 1 or raster.dtype != np.uint8:
                raise ImageError(f"'{mask_file}' has {raster.shape[0]} bands of {raster.dtype}; a mask has one of 8 bits")
            return raster.read(region)[0]
    mask = read_mask(mask_file)
    _require_size(mask.shape, mask_file, size)
    return mask[region.top : region.top + region.height, region.left : region.left + region.width]


def _require_size(mask: tuple[int, ...], mask_file: Path, image: tuple[int, ...]) -> None:
    if mask != image:
        raise ImageError(f"'{mask_file}' is {mask[1]}x{mask[0]}, its image is {image[1]}x{image[0]}; they must be of one size")


def read_ids(mask_file: Path, labels: Labels, ids: Mapping[int, int]) -> np.ndarray:
    """(H, W) uint8 class ids of a mask, translated by `ids`; of multi-label, (classes, H, W) of 0, 1 and 255.

    Raises:
        ImageError: If the file is unreadable, or holds an id that is not in `ids`.
    """
    if labels.multilabel:
        return read_class_masks(mask_file, len(labels))
    return _translate(read_mask(mask_file), mask_file, ids)


def _translate(mask: np.ndarray, mask_file: Path, ids: Mapping[int, int]) -> np.ndarray:
    found = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    if unknown := [i for i in found if i not in ids]:
        raise ImageError(f"'{mask_file}' holds the ids {unknown}; the dataset has {_ranges(sorted(ids))}")
    table = np.zeros(256, np.uint8)
    table[found] = [ids[i] for i in found]
    return table[mask]


def list_images(folder: Path, *, have_masks: bool = True) -> tuple[Path, ...]:
    """The images in a folder by name, without hidden files.

    Args:
        folder: Searched, without the folders below.
        have_masks: Whether each image has a mask, or another file, that is named like it.

    Raises:
        FileNotFoundError: If there is no such folder, or no image in it.
        ValueError: If two differ only in their suffix, so that they would share a mask.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder '{folder}'")
    # macOS leaves a hidden ._NAME beside each file on foreign disks
    suffixes = SUFFIXES | _ONLY_RASTERS
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"No images in '{folder}'")
    by_stem: dict[str, Path] = {}
    for file in files if have_masks else ():
        if (other := by_stem.setdefault(file.stem, file)) != file:
            raise ValueError(f"'{other}' and '{file}' would share the mask {file.stem}.png; rename one")
    return tuple(files)


def _require_mask(image: Path, mask: Path) -> None:
    if not mask.is_file():
        raise FileNotFoundError(f"'{image}' has no mask '{mask}'")


def _ranges(ids: list[int]) -> str:
    """Ids as people write them: "0 to 10, 255"."""
    starts = [i for i in ids if i - 1 not in ids]
    ends = [i for i in ids if i + 1 not in ids]
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True))
