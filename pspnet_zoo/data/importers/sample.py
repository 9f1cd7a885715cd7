"""The result of every reader of labels, and the care that files from elsewhere need: paths, JSON, numbers, sizes."""

import contextlib
import functools
import io
import json
import os
import posixpath
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from ..images import SUFFIXES, ImageError, check_file
from ..rasters import open_raster

_LARGEST_TEXT = 1 << 30  # bytes of a file with annotations; in memory it takes several times that
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""The split that a word in a folder's or file's name stands for."""
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "rgb", "photos", "inputs", "leftimg8bit")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "segmentations", "segmentation", "gt", "groundtruth", "targets")


_WITHOUT_IDS = ("labelme", "cvat", "labelstudio", "vectors", "instances")
"""Formats whose classes have names only."""


class SourceError(ValueError):
    """A part of a source that cannot be imported; the message names it."""


class MissingImageError(SourceError):
    """An image that the source does not hold."""


@dataclass(frozen=True)
class Object:
    """A region that somebody drew, of one category: the inside of its rings, or a mask."""

    category: int | None
    """Key of `Source.categories`; None for one that the source does not define, whose pixels are ignored."""
    where: str
    """Name for messages, such as "annotation 12"."""
    rings: tuple[np.ndarray, ...] = ()
    """(N, 2) float64 x, y in pixels from the image's upper left corner; the region is their union."""
    mask: Callable[[int, int], np.ndarray] | None = None
    """Returns the (H, W) bool mask for a height and width, or raises a SourceError if it is of another size."""
    crowd: bool = False
    """Whether it is a region of many objects, which lies below the single ones."""


@dataclass(frozen=True)
class Sample:
    """An image and its labels: objects in drawing order, or a category for every pixel."""

    name: str
    """Path below the source without a suffix, with "/" between folders."""
    image: Path | Callable[[], bytes]
    size: tuple[int, int] | None = None
    """(height, width) that the source states; None if it states none."""
    objects: tuple[Object, ...] = ()
    values: Callable[[], np.ndarray] | None = None
    """Returns (H, W) integers, keys of `Source.categories`; replaces `objects`."""
    split: str | None = None


@dataclass(frozen=True)
class Category:
    """A class as a source names it."""

    name: str
    color: tuple[int, int, int] | None = None


@dataclass
class Source:
    """Labels that were read, in the words of their format."""

    format: str
    categories: dict[int, Category] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """A line for each image, object or file that cannot be imported."""
    notes: list[str] = field(default_factory=list)
    """A line for each guess, with the option that overrules it."""
    undrawn: int | None = None
    """The category of pixels that nobody drew; None if it is none of `categories`."""
    ignored: frozenset[int] = frozenset()
    """Values of masks that are ignored and are no category."""

    @property
    def has_ids(self) -> bool:
        """Whether keys of `categories` are ids that the source states, not numbers that its reader gave to names."""
        return self.format not in _WITHOUT_IDS


def inside(root: Path, text: str, beside: Path | None = None) -> Path:
    """The existing file that a path in a source's file means.

    Args:
        root: Folder that it must lie in.
        text: The path.
        beside: Folder that the path begins in; None for the root.

    Raises:
        SourceError: If it leads out of `root`, by "..", from the root of the disk or by a link, or there is no such file.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    file, top = Path(os.path.abspath((beside or root) / path)), os.path.abspath(root)
    if not text.isprintable() or path.is_absolute() or ":" in text or not file.is_relative_to(top):
        raise SourceError(f"The path {text!r} leads out of the source; it must be below '{root}'")
    return contained(root, root / file.relative_to(top))


def contained(root: Path, file: Path) -> Path:
    """The file itself.

    Raises:
        SourceError: If it is a link that leads out of `root`, or no regular file.
    """
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root)):
        raise SourceError(f"'{file}' is a link that leads out of '{root}'; copy the file")
    if not os.path.isfile(file):  # unlike Path.is_file, False of a name that is too long
        raise MissingImageError(f"No file '{file}'")
    return file


def walk(root: Path, suffixes: Sequence[str] | frozenset[str] = SUFFIXES) -> Iterator[Path]:
    """The files with one of `suffixes` at any depth, by name; hidden files and folders, and links to folders, are left out."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, n) for n in sorted(files) if Path(n).suffix.lower() in suffixes and not n.startswith("."))


class Images:
    """The images below a folder, found by the names that annotations give them.

    Attributes:
        overruled: Whether an image was found by its own name after it was taken for another; read again, it has its own only.

    Args:
        root: The folder of the source, or of its images.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.overruled = root, False
        self._names: dict[Path, tuple[str, ...]] = {}  # what each image that was found is called

    @functools.cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in walk(self.root):
            found.setdefault(path.name, []).append(path)
        return found

    def find(self, text: Any, *, beside: Path | None = None) -> Path:
        """The image that `text` means: a path from `beside` or the root, or else the only image whose path fits.

        Paths fit if one is the end of the other, where folders such as "images" do not count, and `beside` is not of another split.
        An image has one name: its own, or else the first that it was found by.

        Raises:
            SourceError: If the path leads out of the root, there is none or several of that name, or the image has another name.
        """
        path, stated = self._find(text, beside)
        own = _folders(path.relative_to(self.root))
        name = stated or own
        if (other := self._names.setdefault(path, name)) != name:
            if name != own:
                there, here = "/".join(other), "/".join(name)
                raise SourceError(f"'{path}' is taken for '{there}', not for '{here}'; add that image, or correct its name")
            self._names[path], self.overruled = own, True
        return path

    def _find(self, text: Any, beside: Path | None) -> tuple[Path, tuple[str, ...] | None]:
        """The image, and its stated name behind the folders of `beside` if it is not there; else None."""
        if not isinstance(text, str) or not text:
            raise SourceError(f"The name of an image is {text!r}; it must be a text")
        if beside is not None:
            apart = not beside.is_relative_to(self.root)  # its paths may lead to the root, as drafts/a.json to ../photos/a.png
            with contextlib.suppress(SourceError if apart else MissingImageError):
                return inside(self.root, text, beside), None
        stated = _folders(PurePosixPath(posixpath.normpath(text.replace("\\", "/"))))
        around = beside.relative_to(self.root) if beside is not None and beside.is_relative_to(self.root) else Path()
        whole = _folders(PurePosixPath(around.as_posix(), *stated))
        with contextlib.suppress(MissingImageError):
            return inside(self.root, text), whole if beside else None
        named = self._by_name.get(stated[-1], [])
        found = [p for p in named if self._fits(p, stated, around)]
        if len(found) > 1:  # masks have the names of their images
            found = [p for p in found if not any(part.lower() in MASK_FOLDERS for part in p.relative_to(self.root).parts)] or found
        if len(found) > 1:
            shared = [_shared(_folders(p.relative_to(self.root)), whole) for p in found]
            found = [p for p, number in zip(found, shared, strict=True) if number == max(shared)]
        if not found:
            other = f"; '{named[0]}' has this name in another folder, which --images can name if it is meant" if named else ""
            raise MissingImageError(f"No image {text!r} in '{self.root}'{other}")
        if len(found) > 1:
            raise SourceError(
                f"{len(found)} images in '{self.root}' have the name {text!r}; the annotations must say their folders too"
            )
        return contained(self.root, found[0]), whole

    def _fits(self, path: Path, stated: tuple[str, ...], around: Path) -> bool:
        """Whether an image of the stated name can be the one that is meant."""
        own, split = _folders(path.relative_to(self.root)), split_of(around.as_posix())
        return _shared(own, stated) == min(len(own), len(stated)) and (split is None or self.split(path) in (None, split))

    def split(self, path: Path) -> str | None:
        """The split that the folders of an image below the root state."""
        return split_of("/".join(path.relative_to(self.root).parts[:-1]))

    def name(self, path: Path) -> str:
        """The name of a sample: its path below the root without suffix, and without folders called "images" or after a split."""
        relative = path.relative_to(self.root).with_suffix("")
        parts = [part for part in relative.parts[:-1] if part.lower() not in ("images", *SPLITS)]
        return "/".join([*parts, relative.name])


def _folders(path: PurePath) -> tuple[str, ...]:
    """The folders, lower case, and the name of a path, without ".." and folders called as those of all images or labels are."""
    lower = (part.lower() for part in path.parts[:-1])
    return (*(part for part in lower if part not in ("..", *IMAGE_FOLDERS, *MASK_FOLDERS)), path.name)


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """The number of parts at the ends of two paths that are the same."""
    pairs = enumerate(zip(reversed(one), reversed(other), strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


@dataclass(frozen=True)
class Header:
    """The facts that are known of an image before its pixels are read."""

    size: tuple[int, int]
    """(height, width) as people see it, turned as its EXIF says."""
    stored_size: tuple[int, int]
    """(height, width) of the file."""
    orientation: int
    """EXIF's: 1 if it is not turned."""
    format: str
    """Pillow's name, such as "PNG"."""


def image_header(image: Path | bytes) -> Header:
    """Read the head of an image.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is not an image, or one of more pixels than are read.
    """
    name = f"'{image}'" if isinstance(image, Path) else "The image in the file"
    if isinstance(image, Path):
        check_file(image)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(image if isinstance(image, Path) else io.BytesIO(image)) as opened:
                if opened.format == "EPS":  # Pillow would run Ghostscript on it
                    raise ImageError("it is PostScript, a program, which is not run; save it as PNG")
                orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
                width, height = opened.size
                kind = opened.format or ""
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, the most that are read") from None
    except Exception as error:  # Pillow fails in every way on damaged files
        if isinstance(image, Path) and image.suffix.lower() in (".tif", ".tiff"):  # of more bands than Pillow reads
            with contextlib.suppress(ImportError), open_raster(image) as raster:
                return Header(raster.shape[1:], raster.shape[1:], 1, "TIFF")
        raise ImageError(f"{name} is not an image that can be read: {error}") from None
    size = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    return Header(size, (height, width), orientation, kind)


def split_of(text: str) -> str | None:
    """The split that a word of a path or a file's name stands for: "images/train2017/a.jpg" is of "train"."""
    words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def read_text(path: Path, limit: int = _LARGEST_TEXT) -> str:
    """A text file in UTF-8.

    Raises:
        SourceError: If it cannot be read, has more than `limit` bytes, or is no such text.
    """
    if (size := _status(path).st_size) > limit:
        raise SourceError(f"'{path}' has {size:,} bytes; at most {limit:,} are read")
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise SourceError(f"'{path}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"'{path}' is not a text in UTF-8: {error}") from None


def read_json(path: Path) -> Any:
    """The contents of a JSON file; the last few files are remembered.

    Raises:
        SourceError: If it cannot be read, or is not JSON.
    """
    status = _status(path)
    return _read_json(path, status.st_mtime_ns, status.st_size)


def _status(path: Path) -> os.stat_result:
    if not os.path.isfile(path):  # a pipe would be waited for
        raise SourceError(f"'{path}' cannot be read: it is missing, or a broken link, a folder, a pipe or a device")
    return path.stat()


@functools.lru_cache(maxsize=4)
def _read_json(path: Path, _time: int, _size: int) -> Any:
    try:
        return json.loads(read_text(path))
    except SourceError:
        raise
    except (ValueError, RecursionError) as error:
        raise SourceError(f"'{path}' is not JSON: {error}") from None


def get(values: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """`values[key]`, of the type that it must have.

    Raises:
        SourceError: If `values` is no object, or has no such key or another type there.
    """
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join({dict: "an object", list: "a list", str: "a text"}.get(k, "a number") for k in kinds)
        raise SourceError(f'{where}: "{key}" is {_short(value)}; it must be {names}')
    return value


def stated_size(height: Any, width: Any, where: str) -> tuple[int, int] | None:
    """A (height, width) from a file; None if neither is stated.

    Raises:
        SourceError: If they are not positive whole numbers.
    """
    if height is None and width is None:
        return None
    if not all(isinstance(v, int | float) and 0 < v < 1 << 31 and v == int(v) for v in (height, width)):
        raise SourceError(f"{where}: the size is {_short(width)} x {_short(height)}; it must be two positive numbers of pixels")
    return int(height), int(width)  # type: ignore[arg-type]  # checked above


def to_ring(points: Any, where: str) -> np.ndarray:
    """(N, 2) float64 from a flat list of coordinates or a list of pairs.

    Raises:
        SourceError: If it is no such list, holds NaN or infinity, or has fewer than three points.
    """
    try:
        ring = np.asarray(points, np.float64)
        ring = ring.reshape(-1, 2) if ring.ndim == 1 else ring
    except (ValueError, TypeError, OverflowError):
        ring = np.empty(0)
    if not len(ring) and isinstance(points, list | tuple) and not points:
        raise SourceError(f"{where} is empty")
    if ring.ndim != 2 or ring.shape[-1] != 2 or not np.isfinite(ring).all() or (np.abs(ring) > 1e9).any():
        raise SourceError(f"{where}: the points are {_short(points)}; they must be pairs of numbers")
    if len(np.unique(ring, axis=0)) < 3:
        raise SourceError(f"{where} has {len(ring)} points; a polygon has three or more, all different")
    return ring


def check_name(name: Any, where: str) -> str:
    """A class name that can be printed on one line, without spaces around it.

    Raises:
        SourceError: If it cannot.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise SourceError(f"{where}: the name of a class is {_short(name)}; it must be a text on one line")
    return name.strip()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
