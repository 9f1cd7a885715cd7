"""Polygons in the formats of other tools: COCO, labelme, YOLO and GeoJSON."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..inference.outlines import Polygon, signed_area
from ..meta import Labels

_AT_ONCE = 1 << 22  # distances of corners that are held at once

Place = Callable[[float, float], tuple[float, float]]
"""Maps x, y of an image, in pixels, to the coordinates of a map."""


def coco(images: Mapping[str, tuple[tuple[int, int], Sequence[Polygon]]], labels: Labels) -> dict[str, Any]:
    """COCO's instances; ids of categories are class ids plus one, since COCO's begin with 1.

    Objects with holes are run lengths, which COCO's polygons cannot be. Source: https://cocodataset.org/#format-data

    Args:
        images: By file name, the (height, width) and the objects of each.
        labels: Of the class ids.
    """
    listed, annotations = [], []
    for number, (name, ((height, width), polygons)) in enumerate(images.items(), 1):
        listed.append({"id": number, "file_name": name, "width": width, "height": height})
        for polygon in polygons:
            left, top, right, bottom = polygon.box
            shape = _run_lengths(polygon.mask(height, width)) if polygon.holes else [polygon.exterior.ravel().tolist()]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": polygon.class_id + 1,
                    "segmentation": shape,
                    "area": polygon.area,
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(labels.names, 1)]
    return {"images": listed, "annotations": annotations, "categories": categories}


def _run_lengths(pixels: np.ndarray) -> dict[str, Any]:
    """The lengths of runs of 0 and 1 in turn, column by column."""
    flat = np.r_[False, pixels.T.ravel(), False]
    bounds = np.r_[0, np.flatnonzero(flat[1:] != flat[:-1]), pixels.size]
    counts = np.diff(bounds)
    return {"size": list(pixels.shape), "counts": (counts if counts[-1] else counts[:-1]).tolist()}


def labelme(name: str, size: tuple[int, int], polygons: Sequence[Polygon], labels: Labels) -> dict[str, Any]:
    """The file that labelme 5 and 6 open for an image; objects with holes are masks.

    Source: github wkentaro/labelme, labelme/_label_file.py.

    Args:
        name: Path of the image from the JSON file.
        size: (height, width).
        polygons: Its objects.
        labels: Of the class ids.
    """
    shapes = []
    for polygon in polygons:
        shape = {"label": labels.names[polygon.class_id], "points": polygon.exterior.tolist(), "shape_type": "polygon"}
        if polygon.holes:
            left, top, right, bottom = (round(v) for v in polygon.box)
            box = polygon.mask(*size)[top:bottom, left:right]
            buffer = io.BytesIO()
            Image.fromarray(box.astype(np.uint8)).save(buffer, "png")
            corners = [[float(left), float(top)], [float(right - 1), float(bottom - 1)]]
            shape |= {"points": corners, "shape_type": "mask", "mask": base64.b64encode(buffer.getvalue()).decode()}
        shapes.append({**shape, "group_id": None, "description": "", "flags": {}, "mask": shape.get("mask")})
    height, width = size
    image = {"imagePath": name, "imageData": None, "imageHeight": height, "imageWidth": width}
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, **image}


def yolo(size: tuple[int, int], polygons: Sequence[Polygon]) -> str:
    """A line an object: class id, and corners as fractions of width and height. Holes are joined to the outline by a seam.

    Source: https://docs.ultralytics.com/datasets/segment/

    Args:
        size: (height, width).
        polygons: The objects of the image.
    """
    height, width = size
    lines = [
        " ".join([str(p.class_id), *(f"{value:.6f}" for value in (_with_seams(p) / (width, height)).ravel())]) for p in polygons
    ]
    return "".join(f"{line}\n" for line in lines)


def _with_seams(polygon: Polygon) -> np.ndarray:
    """One ring, even-odd: to each hole along the shortest way, round it, and back the same way."""
    ring, holes = polygon.exterior, list(polygon.holes)
    nearest = [_nearest(ring, hole) for hole in holes]
    while holes:
        place = min(range(len(holes)), key=lambda i: nearest[i][2])
        at, start, _ = nearest.pop(place)
        hole = np.roll(holes.pop(place), -start, axis=0)
        added = np.concatenate([hole, hole[:1]])
        ring = np.concatenate([ring[: at + 1], added, ring[at:]])
        # the others' nearest corners move behind those that were added, or are among them
        for i, other in enumerate(holes):
            corner, begin, distance = nearest[i]
            moved = (corner if corner <= at else corner + len(added) + 1, begin, distance)
            among = _nearest(added, other)
            new = (at + 1 + among[0], *among[1:])
            nearest[i] = min(moved, new, key=lambda found: (found[2], found[0]))
    return ring


def _nearest(ring: np.ndarray, hole: np.ndarray) -> tuple[int, int, float]:
    """The corners of a ring and of a hole that are next to each other, and the square of their distance."""
    found, rows = (0, 0, math.inf), max(_AT_ONCE // len(hole), 1)
    for first in range(0, len(ring), rows):
        distance = ((ring[first : first + rows, None] - hole[None]) ** 2).sum(2)
        at, start = np.unravel_index(int(distance.argmin()), distance.shape)
        if distance[at, start] < found[2]:
            found = first + int(at), int(start), float(distance[at, start])
    return found


def geojson(polygons: Sequence[Polygon], labels: Labels, place: Place | None = None) -> dict[str, Any]:
    """A feature for each object: its outline, with the class, area and centre.

    Outlines run counterclockwise and holes clockwise in the map's coordinates, as RFC 7946, section 3.1.6 asks for. Without a map
    the coordinates are pixels, y downward.

    Args:
        polygons: The objects.
        labels: Of the class ids.
        place: To the map's coordinates; RFC 7946 asks for longitude and latitude of WGS 84.
    """
    features = []
    for polygon in polygons:
        rings = [_closed(ring, place, counterclockwise=i == 0) for i, ring in enumerate((polygon.exterior, *polygon.holes))]
        center = polygon.center if place is None else place(*polygon.center)
        facts = {"class": labels.names[polygon.class_id], "class_id": polygon.class_id, "pixels": polygon.area, "center": [*center]}
        features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": facts})
    return {"type": "FeatureCollection", "features": features}


def _closed(ring: np.ndarray, place: Place | None, *, counterclockwise: bool) -> list[list[float]]:
    points = ring if place is None else np.array([place(x, y) for x, y in ring.tolist()])
    # of a map, y goes up: a positive area is counterclockwise there
    if (signed_area(points) > 0) != counterclockwise:
        points = points[::-1]
    return [*points.tolist(), points[0].tolist()]
