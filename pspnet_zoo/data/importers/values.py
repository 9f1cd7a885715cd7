"""The meaning of the values of masks: ids of any depth, two values, and colors with or without a table."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from ..images import check_ids
from .sample import Category, Source, SourceError, image_header

_MOST_VALUES = 255
_UNLABELLED = ("void", "unlabelled", "unlabeled", "ignore", "ignored")
COLOR = 1 << 60  # added to colors, so that none is taken for an id


@dataclass(frozen=True)
class MaskOptions:
    """The options that the user states for masks, in place of guesses."""

    pattern: str | None = None
    """Path of the mask of an image below the source, with "{stem}", and if wanted "{class}" and "*"."""
    colors: Path | None = None
    """Table of colors and names."""
    names: tuple[str, ...] = ()
    """Names of the values, in ascending order; "ignore" for one that is ignored."""
    kind: str | None = None
    """"colors", "binary", "ids" or "instances"; None to look at the masks."""
    field: str | None = None
    """Field of vectors that holds the class."""


class Mask(Protocol):
    """Values for the pixels of an image, wherever they are stored."""

    where: str
    """Name for messages."""

    def values(self, *, as_colors: bool = False) -> np.ndarray:
        """(H, W) int64: the id of every pixel, or `pack` of its color; the colors of a palette if asked for."""
        ...

    def palette(self) -> dict[int, tuple[int, int, int]]:
        """The color of each index of an indexed image, or of one bit; empty for other masks."""
        ...


class MaskImage:
    """A mask as an image file of up to 32 bits a channel.

    Colors of 16 bits that 8 bits hold as well are read as 8 bits. Transparent pixels are black.

    Args:
        data: The file, or what returns its bytes.
        where: Name for messages; a file has its own.
    """

    def __init__(self, data: Path | Callable[[], bytes], where: str = "") -> None:
        self._data, self.where = data, where or f"'{data}'"

    def values(self, *, as_colors: bool = False) -> np.ndarray:
        """See `Mask`.

        Raises:
            SourceError: If it cannot be read, or holds fractions or negative numbers.
        """
        try:
            data = self._data if isinstance(self._data, Path) else self._data()
            image_header(data)
            with Image.open(data if isinstance(data, Path) else io.BytesIO(data)) as image:
                if image.format == "TIFF" and getattr(image, "is_animated", False):
                    raise ValueError("it holds several images; a mask is one")
                check_ids(image)
                if image.format == "PNG" and image.mode in ("RGB", "RGBA", "LA") and _bits_of_png(data) == 16:
                    return _colors(_deep_png(image, data))
                if image.mode in ("P", "1") and as_colors:
                    pixels = np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))
                else:
                    pixels = np.asarray(image)
        except (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError) as error:
            raise SourceError(f"{self.where} cannot be read: {error}") from None
        return _colors(pixels) if pixels.ndim == 3 else _ids(pixels, self.where)

    def palette(self) -> dict[int, tuple[int, int, int]]:
        """See `Mask`."""
        with Image.open(self._data if isinstance(self._data, Path) else io.BytesIO(self._data())) as image:
            if image.mode == "1":
                return {0: (0, 0, 0), 1: (255, 255, 255)}
            colors = (image.getpalette("RGB") or []) if image.mode == "P" else []
        return {index: (r, g, b) for index, (r, g, b) in enumerate(zip(colors[::3], colors[1::3], colors[2::3], strict=True))}


class MaskArray:
    """A mask as an array, (H, W) integers or (H, W, 3 or 4) colors.

    Args:
        read: Returns the array.
        where: Name for messages.
    """

    def __init__(self, read: Callable[[], np.ndarray], where: str) -> None:
        self._read, self.where = read, where

    def values(self, *, as_colors: bool = False) -> np.ndarray:
        """See `Mask`."""
        pixels = np.squeeze(self._read())
        if pixels.ndim == 3 and pixels.shape[2] in (3, 4) and pixels.dtype in (np.uint8, np.uint16):
            return _colors(pixels)
        if pixels.ndim != 2 or not pixels.size:
            raise SourceError(f"{self.where} has the shape {pixels.shape}; a mask is (H, W)")
        return _ids(pixels, self.where)

    def palette(self) -> dict[int, tuple[int, int, int]]:
        """See `Mask`."""
        return {}


def _ids(pixels: np.ndarray, where: str) -> np.ndarray:
    if pixels.dtype.kind not in "biuf" or not np.isfinite(pixels).all() or (pixels != np.floor(pixels)).any():
        raise SourceError(f"{where} holds something else than whole numbers, which the ids of a mask are")
    if pixels.min() < 0 or pixels.max() >= COLOR:
        raise SourceError(f"{where} holds numbers below 0 or too large; ids of a mask are 0 or more")
    return pixels.astype(np.int64)


def pack(color: Sequence[int]) -> int:
    """The value of a color in what `Mask.values` returns: 8 bits a channel, or 16, with bit 48 set, where one needs more."""
    bits = 8 if max(color) < 256 else 16
    red, green, blue = (int(c) for c in color)
    return COLOR | (bits == 16) << 48 | (red << 2 * bits) | (green << bits) | blue


def _bits_of_png(data: Path | bytes) -> int:
    """Bits a channel, byte 24 of the file, which Pillow does not tell."""
    if isinstance(data, bytes):
        return data[24]
    with data.open("rb") as file:
        return file.read(25)[24]


def _deep_png(image: Image.Image, data: Path | bytes) -> np.ndarray:
    """(H, W, 3 or 4) uint16, or uint8 if that holds all, of an open PNG of 16 bits a channel, of which Pillow keeps the upper 8.

    Raises:
        ValueError: If it is grayscale with transparency.
    """
    if image.mode == "LA":
        raise ValueError("it is grayscale of 16 bits with transparency; save it without")
    high = np.array(image).astype(np.uint16)
    with Image.open(data if isinstance(data, Path) else io.BytesIO(data)) as again:
        again.tile = [tile._replace(args=f"{again.mode};16L") for tile in again.tile]  # type: ignore
        low = np.array(again).astype(np.uint16)
    if (low == high).all() or not low[..., :3].any():
        return high.astype(np.uint8)
    return high << 8 | low


def _colors(pixels: np.ndarray) -> np.ndarray:
    values = pixels.astype(np.int64)
    if pixels.shape[2] in (1, 2):  # grayscale, with transparency
        values = np.concatenate([values[..., :1].repeat(3, 2), values[..., 1:]], 2)
    deep = values[..., :3].max(-1) > 255
    bits = np.where(deep, 16, 8)
    packed = COLOR | deep.astype(np.int64) << 48 | values[..., 0] << 2 * bits | values[..., 1] << bits | values[..., 2]
    return packed if values.shape[2] == 3 else np.where(values[..., 3] > 0, packed, COLOR)


Read = Callable[[], np.ndarray]


def scan(
    masks: Sequence[Mask], problems: list[str], *, as_colors: bool | None = None
) -> tuple[Counter[int], dict[int, tuple], list[Read | None]]:
    """The number of pixels of each value in all masks, the palette's colors, and what reads each mask; None if it cannot be.

    Indexed images, and those of one bit, give their colors or their indices as `as_colors` says; if it is None, their colors if
    their palettes differ, or others hold colors, or all their grays and none of their indices.

    Raises:
        SourceError: If no mask can be read.
    """
    found: Counter[int] = Counter()
    palette: dict[int, tuple[int, int, int]] = {}
    readers: list[Read | None] = []
    failures: list[str] = []
    grayscale: set[int] = set()
    differ = False
    for mask in masks:
        try:
            values, counts = np.unique(mask.values(as_colors=bool(as_colors)), return_counts=True)
        except SourceError as error:
            failures.append(str(error))
            readers.append(None)
            continue
        own = {} if as_colors else mask.palette()
        differ = differ or any(palette.setdefault(v, own[v]) != own[v] for v in values.tolist() if v in own)
        found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        grayscale.update(() if own else values.tolist())
        if as_colors is None and (differ or (palette and max(found) >= COLOR)):
            return scan(masks, problems, as_colors=True)
        readers.append(partial(mask.values, as_colors=bool(as_colors)))
    if as_colors is None and _are_grays(palette, grayscale):
        return scan(masks, problems, as_colors=True)
    problems += failures
    if not found:
        raise SourceError("No mask can be read. " + (failures[0] if failures else ""))
    return found, palette, readers


def _are_grays(palette: dict[int, tuple[int, int, int]], values: set[int]) -> bool:
    """Whether the values of grayscale masks are the colors of indexed ones, such as 0 and 255, and not their indices 0 and 1."""
    grays = {index: red for index, (red, green, blue) in palette.items() if red == green == blue}
    others = {index for index, gray in grays.items() if index != gray}
    return bool(others) and len(grays) == len(palette) and {*grays.values()} <= values and not others & values


def interpret(
    source: Source, masks: Sequence[Mask], table: dict[int, Category] | None, options: MaskOptions
) -> Sequence[Read | None]:
    """State what the values of masks mean: set the categories of `source` and note what is guessed.

    Returns:
        For each mask what reads it; None for one that cannot be read, with a problem noted.

    Raises:
        SourceError: If no mask can be read, or there are more values than classes can be.
    """
    stated = {"ids": False, "colors": True}.get(options.kind or "", table is not None or None)
    values, palette, readers = scan(masks, source.problems, as_colors=stated)
    grays = [_gray(value) for value in values if value >= COLOR]
    mixed = 0 < len(grays) < len(values)  # grayscale files beside those of colors
    if options.kind == "colors" or (mixed and (table or None in grays)):
        values = _in_color(values)
        readers = [read and partial(_grays_in_color, read) for read in readers]
    elif mixed:
        values = _in_gray(values)
        readers = [read and partial(_colors_in_gray, read) for read in readers]
    two = len(values) == 2 and not table and len(options.names) in (0, 2) and "ignore" not in options.names
    if options.kind == "binary" or (options.kind is None and two):
        return _interpret_two(source, values, readers, options)
    if len(values) > _MOST_VALUES + 1 and not table:
        raise SourceError(
            f"The masks hold {len(values):,} values; there can be {_MOST_VALUES} classes. If they were smoothed or are JPEG files, "
            "state the true colors with --colors; if they are numbers of objects, make all above 0 one class with --format binary"
        )
    colored = options.kind == "colors" or any(value >= COLOR and _gray(value) is None for value in values)
    source.format = "colors" if colored or (table and any(value >= COLOR for value in values)) else "ids"
    if source.format == "colors":
        _interpret_colors(source, values, table, options)
    else:
        _interpret_ids(source, values, palette, options)
    return readers


def _in_color(values: Counter[int]) -> Counter[int]:
    """The number of pixels of each color, where an id is a gray.

    Raises:
        SourceError: If an id is larger than a color can be.
    """
    found: Counter[int] = Counter()
    for value, count in values.items():
        if 2**16 <= value < COLOR:
            raise SourceError(f"The masks hold {value}, and colors have up to 16 bits; take --format ids")
        found[value if value >= COLOR else pack((value, value, value))] += count
    return found


def _grays_in_color(read: Read) -> np.ndarray:
    values = read()
    grays = np.where(values < COLOR, values, 0)
    return np.where(values < COLOR, _colors(grays[..., None]), values)


def _in_gray(values: Counter[int]) -> Counter[int]:
    """The number of pixels of each id, where a gray is one."""
    found: Counter[int] = Counter()
    for value, count in values.items():
        found[value if value < COLOR else _rgb(value)[0]] += count
    return found


def _colors_in_gray(read: Read) -> np.ndarray:
    values = read()
    return np.where(values < COLOR, values, values & np.where(values >> 48 & 1, 2**16 - 1, 2**8 - 1))


def _interpret_two(
    source: Source, values: Counter[int], readers: Sequence[Read | None], options: MaskOptions
) -> Sequence[Read | None]:
    names = options.names or ("background", "foreground")
    if "ignore" in names:
        raise SourceError("--names has 'ignore', and --format binary makes two classes of all values; take --format ids or colors")
    if len(names) != 2:
        raise SourceError(f"--names has {len(names)} names; masks of two values need two, the first for the background")
    source.format, source.undrawn = "binary", 0
    source.categories = {0: Category(names[0]), 1: Category(names[1])}
    if len(values) == 2:
        low, high = min(values), max(values)
        source.notes.append(
            f"The masks hold {show_value(low)} and {show_value(high)}: '{names[0]}' and '{names[1]}' (--names, or "
            "--format ids if both are classes)"
        )
    else:
        low = COLOR if min(values) >= COLOR else 0
        source.notes.append(f"{show_value(low)} is '{names[0]}' and every other value '{names[1]}'")
    return [read and partial(_above, read, low) for read in readers]


def _above(read: Read, low: int) -> np.ndarray:
    return (read() != low).astype(np.int64)


def _interpret_colors(source: Source, values: Counter[int], table: dict[int, Category] | None, options: MaskOptions) -> None:
    black = pack((0, 0, 0))
    if table is None:
        ordered = sorted(values) if options.names else sorted(values, key=lambda v: (v != black, -values[v]))
        names = options.names or [("background" if v == black else f"color_{_hex(v)}") for v in ordered]
        if len(names) != len(ordered):
            raise SourceError(f"--names has {len(names)} names; the masks hold {len(ordered)} colors. Give a table with --colors")
        source.ignored = frozenset(v for v, name in zip(ordered, names, strict=True) if name == "ignore" and options.names)
        source.categories = {
            v: Category(name, _rgb(v) if max(_rgb(v)) < 256 else None)
            for v, name in zip(ordered, names, strict=True)
            if v not in source.ignored
        }
        total = sum(values.values())
        lines = [
            f"  {' '.join(map(str, _rgb(v)))} {name}  # {values[v] / total:.2%}" for v, name in zip(ordered, names, strict=True)
        ]
        how = "by --names in ascending order" if options.names else "after themselves"
        source.notes.append(f"The colors were found in the masks and named {how}; correct the names with --colors FILE:")
        source.notes += lines
        source.undrawn = black if black in source.categories else None
        return
    source.categories = table
    if black in table and table[black].name.lower() in _UNLABELLED:
        source.notes.append(f"Black is called '{table[black].name}' and ignored")
        source.categories = {value: category for value, category in table.items() if value != black}
        source.ignored = frozenset({black})
    elif black in table:
        source.undrawn = black
    elif black in values:
        source.categories = {black: Category("background", (0, 0, 0)), **table}
        source.undrawn = black
        source.notes.append("Black is not in the table: 'background' (--ignore-undrawn ignores it)")


def _interpret_ids(source: Source, values: Counter[int], palette: dict[int, tuple], options: MaskOptions) -> None:
    plain = {value: _gray(value) if value >= COLOR else value for value in sorted(values)}
    largest = [value for value, number in plain.items() if number in (2**8 - 1, 2**16 - 1, 2**32 - 1)]
    ids = [value for value in plain if value not in largest]
    if len(options.names) == len(plain):  # the user names all of them
        ids, largest = list(plain), []
    if options.names and len(options.names) not in (len(ids), max(((plain[i] or 0) for i in ids), default=-1) + 1):
        raise SourceError(f"--names has {len(options.names)} names; the masks hold the values {_list(plain.values())}")
    by_id = len(options.names) > len(ids)
    for place, value in enumerate(ids):
        name = options.names[(plain[value] or 0) if by_id else place] if options.names else f"class_{plain[value]}"
        if name == "ignore":
            largest.append(value)
        else:
            source.categories[value] = Category(name, palette.get(value))
    source.ignored = frozenset(largest)
    if not options.names:
        source.notes.append(f"The masks hold the ids {_list(plain[v] for v in ids)}; name them with --names")
    if largest:
        source.notes.append(f"{_list(plain[v] for v in largest)} is ignored (name it too with --names to keep it)")


def _gray(value: int) -> int | None:
    red, green, blue = _rgb(value)
    return red if red == green == blue else None


def _rgb(value: int) -> tuple[int, int, int]:
    value &= COLOR - 1
    bits = 16 if value >> 48 else 8
    low = (1 << bits) - 1
    return value >> 2 * bits & low, value >> bits & low, value & low


def _hex(value: int) -> str:
    return f"{value & ((1 << 48) - 1):06x}"


def show_value(value: int) -> str:
    """A value of a mask as people write it: an id, or a color."""
    return str(_rgb(value)) if value >= COLOR else str(value)


def _list(numbers: Iterable[int | None]) -> str:
    found = [str(n) for n in numbers]
    return ", ".join(found if len(found) < 12 else [*found[:10], "...", found[-1]])
