"""A segmented image: its mask, class fractions and files."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.images import encode_class_masks
from ..meta import IGNORE, Labels
from ..storage.files import write_atomically
from . import draw
from .outlines import Polygon, find_polygons


def class_fractions_of(mask: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Fraction of a mask's pixels in each class, by name. Pixels without data, 255, do not count.

    The sum is 1, unless they are the (K, H, W) masks of several classes a pixel: there, pixels without data count as of no class.

    Raises:
        ValueError: If an id has no name.
    """
    if mask.ndim == 3:
        return dict(zip(names, (mask == 1).mean(axis=(1, 2)).tolist(), strict=True))
    return fractions_of(np.bincount(mask.ravel(), minlength=len(names)), names)


def fractions_of(counts: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """The fractions of `class_fractions_of`, from the number of pixels of each id."""
    if len(counts) == IGNORE + 1 and len(names) <= IGNORE:
        counts = np.trim_zeros(counts[:IGNORE], "b") if counts[len(names) : IGNORE].any() else counts[: len(names)]
    counts = counts / max(counts.sum(), 1)
    if len(counts) > len(names):
        raise ValueError(f"The mask has id {len(counts) - 1}, and there are {len(names)} classes")
    return dict(zip(names, counts.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Prediction:
    """A segmented image. Predictions are equal where images, masks and labels are."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    mask: np.ndarray
    """(H, W) class ids; uint8, or uint16 where there are more than 255 classes. Of multi-label, (K, H, W) bool: the pixels of each
    class, none of them where there is no data."""
    labels: Labels
    """Names and colors of the ids."""
    probabilities: np.ndarray | None = None
    """(C, H, W) float32, 0 to 1, for each class; None unless they were requested."""
    confidence: np.ndarray | None = None
    """(H, W) uint8, the probability of each pixel's class times 255, rounded; 0 without data. None unless it was requested."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        return self.labels == other.labels and np.array_equal(self.mask, other.mask) and np.array_equal(self.image, other.image)

    def __hash__(self) -> int:
        return hash((self.mask.shape, self.mask.tobytes()))

    @property
    def class_fractions(self) -> dict[str, float]:
        """Fraction of the image in each class, by name; the sum is 1 unless it is multi-label."""
        return class_fractions_of(self.mask, self.labels.names)

    def colorize(self) -> Image.Image:
        """The mask in the colors of the classes, RGB."""
        return Image.fromarray(draw.colorize(self.mask, self.labels))

    def overlay(self, alpha: float = 0.5, *, legend: bool = False) -> Image.Image:
        """The image blended with the colors of the classes.

        Args:
            alpha: Opacity of the colors: 0 shows the image only, 1 the colors only.
            legend: Add the names and fractions of the classes at the right.

        Raises:
            ValueError: If alpha is not between 0 and 1.
        """
        image = Image.fromarray(draw.overlay(self.image, self.mask, self.labels, alpha))
        return draw.with_legend(image, self.labels, self.class_fractions) if legend else image

    def polygons(self, name: str | None = None, *, simplify: float = 0, min_area: int = 0, holes: bool = True) -> list[Polygon]:
        """The outlines of the objects of a class, or of all classes.

        Args:
            name: Of the class; None for all.
            simplify: Pixels by which an outline may be moved to spare corners; 0 for the exact edges of the pixels.
            min_area: Pixels of the smallest object that is kept.
            holes: Keep holes; otherwise they are filled.

        Raises:
            ValueError: If there is no such class.
            ImportError: If `simplify` is above 0 and shapely is not installed.
        """
        if name is not None and name not in self.labels.names:
            raise ValueError(f"No class {name!r}; there are {', '.join(self.labels.names)}")
        ids = range(len(self.labels)) if name is None else [self.labels.names.index(name)]
        found = (find_polygons(self.mask, i, simplify=simplify, min_area=min_area, holes=holes) for i in ids)
        return [polygon for polygons in found for polygon in polygons]

    def save(self, path: str | PathLike[str]) -> None:
        """Write the mask, whole or not at all, as an indexed image of the class ids with the colors of the classes.

        Masks of multi-label are a TIFF file with a page a class, as `pspnet_zoo.data.images.encode_class_masks` makes it.

        Raises:
            ValueError: If the path does not end in .png, which keeps the ids exact; or for multi-label, in .tif.
            OSError: If it cannot be written.
        """
        path, is_multilabel = Path(path), self.mask.ndim == 3
        if is_multilabel and path.suffix.lower() not in (".tif", ".tiff"):
            raise ValueError(f"'{path}' does not end in .tif; masks of several classes a pixel are a TIFF file with a page a class")
        if not is_multilabel and path.suffix.lower() != ".png":
            raise ValueError(f"'{path}' does not end in .png; other formats would change the class ids")
        write_atomically(path, encode_class_masks(self.mask) if is_multilabel else self.png())

    def png(self) -> bytes:
        """The mask as a PNG file.

        Raises:
            ValueError: If it is multi-label, which no PNG holds.
        """
        if self.mask.ndim == 3:
            raise ValueError("A PNG holds one class a pixel, and this prediction is multi-label; save it as .tif")
        buffer = BytesIO()
        draw.indexed(self.mask, self.labels).save(buffer, "png")
        return buffer.getvalue()
