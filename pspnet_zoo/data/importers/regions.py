"""Regions as pixels: the inside of polygons, and run lengths of several tools."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..labels import IGNORE
from .sample import Object, SourceError

PRIORITIES = ("last", "first", "smallest")
"""Which object is on top where several overlap."""
_LARGEST_CHUNK = 1 << 22  # crossings of edges and rows that are held at once


@dataclass(frozen=True)
class Cutout(Object):
    """A region with holes, or one of which an image shows a part; nothing may be left of it on the image."""

    holes: tuple[tuple[np.ndarray, ...], ...] = ()
    """(N, 2) float64 x, y in pixels: the holes of each ring."""


def draw(region: Object, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray, list[str]]:
    """The pixels of an object.

    A pixel is inside a ring if its centre is; of a ring that crosses itself, the parts that it goes round an odd number of times.

    Returns:
        The rows and columns of the box that holds them, (rows, columns) bool in that box, and a line for each doubt.

    Raises:
        SourceError: If no pixel is left, except of a `Cutout`.
    """
    cut = region.holes if isinstance(region, Cutout) else None
    if region.mask is not None:
        pixels, box, doubts = region.mask(height, width), (slice(0, height), slice(0, width)), []
    else:
        doubtful = region.rings if cut is None else ()
        doubts = [f"{region.where} {doubt}" for ring in doubtful for doubt in _doubts(ring, height, width)]
        left, top, right, bottom = box_of(region.rings, height, width)
        if (right == left or bottom == top) and cut is None:
            raise SourceError(f"{region.where} lies outside of its image of {width}x{height}")
        box, pixels = (slice(top, bottom), slice(left, right)), np.zeros((bottom - top, right - left), bool)
        for ring, holes in zip(region.rings, cut or ((),) * len(region.rings), strict=True):
            x, y, x2, y2 = box_of([ring], height, width)
            inside = fill(ring, y2 - y, x2 - x, top=y, left=x)
            for hole in holes:
                inside &= ~fill(hole, y2 - y, x2 - x, top=y, left=x)
            pixels[y - top : y2 - top, x - left : x2 - left] |= inside
    if not pixels.any() and cut is None:
        raise SourceError(f"{region.where} is empty: no centre of a pixel is inside")
    return box, pixels, doubts


def box_of(rings: Sequence[np.ndarray], height: int, width: int) -> tuple[int, int, int, int]:
    """The left, upper, right and lower sides of the pixels that rings can cover, the last two exclusive."""
    low, high = np.min([ring.min(0) for ring in rings], 0), np.max([ring.max(0) for ring in rings], 0)
    left, top = (int(v) for v in np.clip(np.floor(low), 0, (width, height)))
    right, bottom = (int(v) for v in np.clip(np.ceil(high), (left, top), (width, height)))
    return left, top, right, bottom


def draw_classes(
    objects: Sequence[Object], size: tuple[int, int], table: Mapping[int, int], classes: int
) -> tuple[np.ndarray, list[str]]:
    """The masks of several classes a pixel, (classes, H, W) uint8 of 0 and 1, and a line for each problem and doubt.

    Ignored objects, which have the class id 255 or no category, are 255 in the masks of the classes that nobody drew there; others
    with an id that is no class are left out.
    """
    masks, ignored, problems = np.zeros((classes, *size), np.uint8), np.zeros(size, bool), []
    for each in objects:
        try:
            box, pixels, doubts = draw(each, *size)
        except SourceError as error:
            problems.append(str(error))
            continue
        problems += doubts
        number = IGNORE if each.category is None else table[each.category]
        if number == IGNORE:
            ignored[box] |= pixels
        elif number >= 0:
            masks[number][box] |= pixels
    masks[(masks == 0) & ignored] = IGNORE
    return masks, problems


def drawing_order(
    priority: str, names: Sequence[str], table: Mapping[int, int]
) -> Callable[[Sequence[Object], tuple[int, int]], Sequence[Object]]:
    """Sort key of the objects of an image, the uppermost last.

    Raises:
        ValueError: If the priority is neither one of `PRIORITIES` nor a list of classes.
    """
    if priority == "last":
        return lambda objects, size: objects
    if priority == "first":
        # the order of the file, which says nothing of crowds
        return lambda objects, size: sorted(objects[::-1], key=lambda each: not each.crowd)
    if priority == "smallest":
        return lambda objects, size: sorted(objects, key=lambda each: -_area(each, size))
    upper = [name.strip() for name in priority.split(",")]
    if unknown := [name for name in upper if name not in names]:
        raise ValueError(f"--priority has {unknown[0]!r}; it can be {', '.join(PRIORITIES)}, or classes: {', '.join(names)}")
    rank = {names.index(name): len(upper) - place for place, name in enumerate(upper)}
    return lambda objects, size: sorted(objects, key=lambda each: rank.get(table.get(each.category, -1), 0))  # type: ignore


def _area(each: Object, size: tuple[int, int]) -> int:
    try:
        return int(draw(each, *size)[1].sum())
    except SourceError:
        return 0


def fill(ring: np.ndarray, height: int, width: int, *, top: int = 0, left: int = 0) -> np.ndarray:
    """(H, W) bool: the pixels whose centre is inside a ring, by the even-odd rule.

    Args:
        ring: (N, 2) float x, y in pixels.
        height: Rows of the result.
        width: Columns of the result.
        top: The image's row that the result begins with.
        left: The image's column that the result begins with.
    """
    (x, y), (x2, y2) = ring.T, np.roll(ring, -1, axis=0).T
    first, last = (np.clip(np.ceil(f(y, y2) - 0.5), top, top + height).astype(np.int64) for f in (np.minimum, np.maximum))
    toggles = np.zeros((height, width + 1), bool)
    rows_before = np.cumsum(last - first)
    start = 0
    while start < len(ring):  # in chunks: many edges over many rows would take much memory
        used = rows_before[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(rows_before, used + _LARGEST_CHUNK, "right")))
        count = (last - first)[start:stop]
        edge = start + np.repeat(np.arange(stop - start), count)
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        crossing = x[edge] + (row + 0.5 - y[edge]) * (x2[edge] - x[edge]) / (y2[edge] - y[edge])
        column = np.clip(np.ceil(crossing - 0.5), left, left + width).astype(np.int64)
        np.logical_xor.at(toggles, (row - top, column - left), True)
        start = stop
    return np.logical_xor.accumulate(toggles, axis=1)[:, :width]


def _doubts(ring: np.ndarray, height: int, width: int) -> list[str]:
    found = []
    over = max(float(-ring.min()), float((ring - (width, height)).max()))
    if over > 1:
        found.append(f"reaches {over:.0f} pixels out of its image of {width}x{height}; that part is cut off")
    if len(ring) > _MOST_COMPARED:
        found.append(f"has {len(ring):,} points, too many to tell whether it crosses itself; it is filled as if it did not")
    elif crosses_itself(ring):
        found.append("crosses itself; it is filled where its outline goes round an odd number of times")
    return found


_MOST_COMPARED = 10_000  # points of a ring: all pairs of its edges are compared where each lies over all others
_EDGES_AT_ONCE = 128  # of a table of edges, which takes memory


def crosses_itself(ring: np.ndarray) -> bool:
    """Whether two edges of a ring cross in a point inside both; touching is not crossing."""
    a, b = ring, np.roll(ring, -1, axis=0)
    order = np.argsort(np.minimum(a[:, 0], b[:, 0]), kind="stable")
    a, b = a[order], b[order]
    (left, top), (right, bottom) = np.minimum(a, b).T, np.maximum(a, b).T
    for start in range(0, len(ring), _EDGES_AT_ONCE):
        some = slice(start, start + _EDGES_AT_ONCE)
        others = slice(start, int(np.searchsorted(left, right[some].max(), "right")))  # edges further right touch none of these
        near = (left[some, None] <= right[others]) & (left[others] <= right[some, None])
        near &= (top[some, None] <= bottom[others]) & (top[others] <= bottom[some, None])
        one, other = np.nonzero(near)
        p, q, r, s = a[start + one], b[start + one], a[start + other], b[start + other]
        if ((_side(p, q, r) * _side(p, q, s) < 0) & (_side(r, s, p) * _side(r, s, q) < 0)).any():
            return True
    return False


def _side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """-1, 0 or 1: on which side of the line from p to q the point r is."""
    return np.sign((q - p)[..., 0] * (r - p)[..., 1] - (q - p)[..., 1] * (r - p)[..., 0])


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> np.ndarray:
    """(64, 2): a ring round an ellipse that is turned clockwise about its centre."""
    angles = np.arange(64) * (2 * np.pi / 64)
    return turned(np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], 1), x, y, degrees)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """(4, 2): the corners."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def turned(ring: np.ndarray, x: float, y: float, degrees: float) -> np.ndarray:
    """A ring turned clockwise about a point."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (ring - (x, y)) @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)


def runs(counts: Sequence[int] | np.ndarray, number: int, where: str) -> np.ndarray:
    """(number,) bool from the lengths of runs of False and True in turn.

    Raises:
        SourceError: If the lengths do not add up to `number`.
    """
    try:
        lengths = np.asarray(counts, np.int64)
    except (ValueError, TypeError, OverflowError):
        lengths = np.array([-1])
    if lengths.ndim != 1 or (lengths < 0).any() or (lengths > number).any() or (total := int(lengths.sum())) != number:
        total = "no numbers of pixels" if lengths.ndim != 1 or (lengths < 0).any() else f"{lengths.sum():,} pixels"
        raise SourceError(f"{where}: the run lengths are of {total}; the image has {number:,}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def brush(data: Sequence[int], height: int, width: int, where: str) -> np.ndarray:
    """(H, W) bool: where a mask of Label Studio's brush is opaque.

    The bits are those of github thi-ng/umbrella, packages/rle-pack: 32 for the number of values, 5 for the bits of a value less
    one, four times 4 for the bits of a count less one; then for each run a bit that is 1 where one value is repeated, 2 bits that
    choose the bits of the count, the count less one, and the value or values. The values are RGBA, of which only A counts.

    Raises:
        SourceError: If it is of another size, or ends early.
    """
    try:
        bits = np.unpackbits(np.array(data, np.uint8))
    except (ValueError, TypeError, OverflowError):
        raise SourceError(f"{where}: the brush holds something else than bytes") from None
    place = 0

    def read(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise SourceError(f"{where}: the brush ends early")
        place += count
        return int.from_bytes(np.packbits(np.pad(bits[place - count : place], (-count % 8, 0))).tobytes(), "big")

    if (number := read(32)) != height * width * 4:
        raise SourceError(f"{where}: the brush is of {number // 4:,} pixels; the image is {width}x{height}")
    word, sizes = read(5) + 1, [read(4) + 1 for _ in range(4)]
    values, done = np.zeros(number, np.uint8), 0
    while done < number:
        repeated = read(1)
        count = min(read(sizes[read(2)]) + 1, number - done)
        if repeated:
            values[done : done + count] = read(word) & 255
        else:
            if place + count * word > len(bits):
                raise SourceError(f"{where}: the brush ends early")
            words = bits[place : place + count * word].reshape(count, word)[:, -8:]
            values[done : done + count] = np.packbits(np.pad(words, ((0, 0), (max(8 - word, 0), 0))), axis=1)[:, 0]
            place += count * word
        done += count
    return values.reshape(height, width, 4)[..., 3] > 0


def box_mask(data: bytes, left: int, top: int, where: str, height: int, width: int) -> np.ndarray:
    """(H, W) bool of a PNG of an object's box, as labelme stores it.

    Raises:
        SourceError: If it cannot be read, or is not inside of the image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            columns, rows = image.size
            if left < 0 or top < 0 or top + rows > height or left + columns > width:
                raise SourceError(f"{where}: the mask of {columns}x{rows} at ({left}, {top}) is not inside of the image")
            box = np.asarray(image) > 0
    except SourceError:
        raise
    except (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError) as error:
        raise SourceError(f"{where}: the mask cannot be read: {error}") from None
    pixels = np.zeros((height, width), bool)
    pixels[top : top + rows, left : left + columns] = box if box.ndim == 2 else box.any(2)
    return pixels
