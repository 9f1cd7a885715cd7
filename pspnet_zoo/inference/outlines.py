"""Outlines of the objects in a mask, along the edges of its pixels, and back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.importers.regions import box_of, fill
from ..extras import missing_extra


@dataclass(frozen=True, eq=False)
class Polygon:
    """An object: pixels of one class that are connected by their sides."""

    class_id: int
    exterior: np.ndarray
    """(N, 2) float64 x, y of the corners in pixels, clockwise as seen, from the image's upper left corner; not closed."""
    holes: tuple[np.ndarray, ...]
    """The same of each hole, counterclockwise."""
    area: int
    """Pixels of the object, without its holes, before it was simplified."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in pixels."""
        (left, top), (right, bottom) = self.exterior.min(0).tolist(), self.exterior.max(0).tolist()
        return left, top, right, bottom

    @property
    def center(self) -> tuple[float, float]:
        """x and y of the centroid, in pixels."""
        rings = [self.exterior, *self.holes]
        areas = np.array([signed_area(ring) for ring in rings])
        return tuple((np.array([_moment(ring) for ring in rings]).sum(0) / areas.sum()).tolist())

    def mask(self, height: int, width: int) -> np.ndarray:
        """(H, W) bool: the pixels whose centre is inside."""
        pixels = fill(self.exterior, height, width)
        for hole in self.holes:
            left, top, right, bottom = box_of([hole], height, width)
            pixels[top:bottom, left:right] &= ~fill(hole, bottom - top, right - left, top=top, left=left)
        return pixels


def signed_area(ring: np.ndarray) -> float:
    """Area of a ring in square pixels, positive if it runs clockwise as seen."""
    (x, y), (x2, y2) = ring.T, np.roll(ring, -1, axis=0).T
    return float((x * y2 - x2 * y).sum() / 2)


def _moment(ring: np.ndarray) -> np.ndarray:
    (x, y), (x2, y2) = ring.T, np.roll(ring, -1, axis=0).T
    cross = x * y2 - x2 * y
    return np.array([((x + x2) * cross).sum(), ((y + y2) * cross).sum()]) / 6


def find_polygons(mask: np.ndarray, class_id: int, *, simplify: float = 0, min_area: int = 0, holes: bool = True) -> list[Polygon]:
    """The objects of a class, from top to bottom.

    Without `simplify`, their `Polygon.mask` are exactly the pixels of the class. Pixels that only touch at a corner are of two
    objects.

    Args:
        mask: (H, W) class ids, or (K, H, W) masks of several classes a pixel, 1 where it is of the class.
        class_id: Which.
        simplify: Distance in pixels by which an outline may be moved to spare corners (Douglas-Peucker); needs shapely.
        min_area: Pixels of the smallest object that is kept.
        holes: Keep holes; otherwise they are filled.

    Raises:
        ValueError: If `simplify` or `min_area` is negative.
        ImportError: If `simplify` is above 0 and shapely is not installed.
    """
    if simplify < 0 or min_area < 0:
        raise ValueError(f"simplify is {simplify} and min_area {min_area}; both are in pixels, 0 or more")
    pixels = mask[class_id] == 1 if mask.ndim == 3 else mask == class_id
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return []
    corner = np.array([columns[0], rows[0]], np.float64)  # of the box that holds them: the rest takes no time
    labels, count = components(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    exteriors: list[np.ndarray | None] = [None] * (count + 1)
    inner: list[list[np.ndarray]] = [[] for _ in range(count + 1)]
    for ring, component in _rings(labels):
        if signed_area(ring) > 0:
            exteriors[component] = ring + corner
        else:
            inner[component].append(ring + corner)
    found = [
        Polygon(class_id, exterior, tuple(inner[i]) if holes else (), int(areas[i]))
        for i, exterior in enumerate(exteriors)
        if exterior is not None and areas[i] >= min_area
    ]
    return [_simplified(polygon, simplify) for polygon in found] if simplify else found


def components(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """The connected parts of a mask.

    Args:
        pixels: (H, W) bool.

    Returns:
        (H, W) int64, 0 outside and else the number of the part, from 1, in the order of their first pixels; and how many there are.
        Pixels are connected by their sides.
    """
    height, width = pixels.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = pixels
    change = np.diff(padded, axis=1)
    (row, start), (_, stop) = np.nonzero(change == 1), np.nonzero(change == -1)  # runs of each row
    # runs of two rows touch if they overlap: as places in one line, for each run the runs of the row below
    first = np.searchsorted(row * (width + 1) + stop, (row + 1) * (width + 1) + start, "right")
    last = np.searchsorted(row * (width + 1) + start, (row + 1) * (width + 1) + stop, "left")
    number = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(row)), number)
    lower = np.repeat(first, number) + np.arange(len(upper)) - np.repeat(np.cumsum(number) - number, number)
    part = np.arange(len(row))
    while True:  # the smallest number spreads, in jumps
        before = part.copy()
        least = np.minimum(part[upper], part[lower])
        np.minimum.at(part, before[upper], least)
        np.minimum.at(part, before[lower], least)
        part = part[part]
        if (part == before).all():
            break
    kept, numbers = np.unique(part, return_inverse=True)
    delta = np.zeros((height, width + 1), np.int64)
    delta[row, start] += numbers + 1
    delta[row, stop] -= numbers + 1
    return np.cumsum(delta, axis=1)[:, :width], len(kept)


_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up


def _rings(labels: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """The outlines of all parts, with the part's number: clockwise outside, counterclockwise round holes, no corner twice."""
    height, width = labels.shape
    padded = np.zeros((height + 2, width + 2), np.int64)
    padded[1:-1, 1:-1] = labels
    # an edge of a part, which is at its right, begins at a corner and has a direction
    edges = np.zeros((4, height + 1, width + 1), bool)
    for direction, (inside, outside) in enumerate(
        (
            ((slice(1, None), slice(1, None)), (slice(0, -1), slice(1, None))),
            ((slice(1, None), slice(0, -1)), (slice(1, None), slice(1, None))),
            ((slice(0, -1), slice(0, -1)), (slice(1, None), slice(0, -1))),
            ((slice(0, -1), slice(1, None)), (slice(0, -1), slice(0, -1))),
        )
    ):
        edges[direction] = (padded[inside] > 0) & (padded[inside] != padded[outside])
    place = np.flatnonzero(edges)
    direction, y, x = np.unravel_index(place, edges.shape)
    x2, y2 = x + np.array(_STEPS)[direction, 0], y + np.array(_STEPS)[direction, 1]
    following = np.full(len(place), -1)
    for turn in (-1, 0, 1):  # to the right, where both are possible: the last one written
        way = (direction + turn) % 4
        there = edges[way, y2, x2]
        following[there] = np.searchsorted(place, np.ravel_multi_index((way, y2, x2), edges.shape)[there])
    # the pixel of `inside`: the lower or upper one of a corner, and the right or left one
    numbers = padded[y + np.array([1, 1, 0, 0])[direction], x + np.array([1, 0, 0, 1])[direction]]
    done = np.zeros(len(place), bool)
    following, directions, corners = following.tolist(), direction.tolist(), list(zip(x.tolist(), y.tolist(), strict=True))
    for begin in range(len(place)):
        if done[begin]:
            continue
        ring, each = [], begin
        while not done[each]:
            done[each] = True
            behind = following[each]
            if directions[behind] != directions[each]:
                ring.append(corners[behind])
            each = behind
        for simple in _split(ring):
            yield np.array(simple, np.float64), int(numbers[begin])


def _split(ring: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Cut a ring where it meets itself in a corner: the parts are rings that touch there."""
    at: dict[tuple[int, int], int] = {}
    path: list[tuple[int, int]] = []
    for corner in ring:
        if (first := at.get(corner)) is not None:
            yield path[first:]
            for removed in path[first + 1 :]:
                del at[removed]
            del path[first + 1 :]
        else:
            at[corner] = len(path)
            path.append(corner)
    yield path


def import_shapely() -> Any:
    """Import the module `shapely`, which `find_polygons` needs to simplify.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import shapely
    except ImportError as error:
        raise missing_extra("Simplifying polygons", "labels", error) from None
    return shapely


def _simplified(polygon: Polygon, distance: float) -> Polygon:
    shape = import_shapely().Polygon(polygon.exterior, polygon.holes).simplify(distance, preserve_topology=True)
    rings = [np.array(ring.coords)[:-1] for ring in (shape.exterior, *shape.interiors)]
    ways = [ring if (signed_area(ring) > 0) == (i == 0) else ring[::-1] for i, ring in enumerate(rings)]
    return Polygon(polygon.class_id, ways[0], tuple(ways[1:]), polygon.area)
