"""Files of polygons beside the masks of a command, in the format of another tool."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ..data.images import read_class_masks, read_prediction
from ..inference.outlines import Polygon, find_polygons
from ..meta import Labels
from ..storage.files import write_atomically
from .jobs import Job
from .polygons import Place, coco, geojson, labelme, yolo

FORMATS = ("masks", "coco", "labelme", "yolo", "geojson")
"""Choices of `predict --format`; "masks" writes nothing more."""
_TIFF = (".tif", ".tiff")


def write_shapes(
    jobs: Iterable[Job],
    labels: Labels,
    output: Path,
    kind: str,
    *,
    simplify: float = 0,
    min_area: int = 0,
    fail: Callable[[Exception], object],
) -> list[Path]:
    """Write the objects in the masks of images; those of a class called "background" are left out, as nobody draws it.

    Args:
        jobs: Images whose masks are written.
        labels: Of the class ids.
        output: Folder of the results.
        kind: One of `FORMATS`. "coco" is one file, "yolo" has a file of names beside those of the images.
        simplify: See `find_polygons`.
        min_area: See `find_polygons`.
        fail: Called with the error of each image whose file cannot be written.

    Returns:
        The files: of "coco" and "yolo" the one that says what the others are.
    """
    written, found = [], {}
    for job in jobs:
        if job.mask is None:
            continue
        try:
            mask = read_class_masks(job.mask, len(labels)) if labels.multilabel else read_prediction(job.mask)
            ids = [i for i, name in enumerate(labels.names) if name != "background"]
            polygons = [p for i in ids for p in find_polygons(mask, i, simplify=simplify, min_area=min_area)]
            height, width = mask.shape[-2:]
            if kind == "coco":
                found[job.stem + job.source.suffix] = ((height, width), polygons)
            else:
                written.append(_write_one(job, (height, width), polygons, labels, output, kind))
        except (ValueError, OSError) as error:
            fail(error)
    if kind == "coco":
        written = [output / "coco.json"]
        write_atomically(written[0], json.dumps(coco(found, labels)).encode())
    elif kind == "yolo":
        written = [output / "data.yaml"]  # JSON is YAML
        write_atomically(written[0], json.dumps({"names": list(labels.names)}, indent=2).encode())
    return written


def _write_one(job: Job, size: tuple[int, int], polygons: list[Polygon], labels: Labels, output: Path, kind: str) -> Path:
    if kind == "labelme":
        path = output / f"{job.stem}.json"
        values = labelme(os.path.relpath(job.source, path.parent), size, polygons, labels)
    elif kind == "yolo":
        path = output / f"{job.stem}.txt"
        write_atomically(path, yolo(size, polygons).encode())
        return path
    else:
        path = output / f"{job.stem}.geojson"
        place, crs = _place(job.source)
        values = geojson(polygons, labels, place)
        if crs:  # no longer in RFC 7946, and read by QGIS and GDAL
            values["crs"] = {"type": "name", "properties": {"name": crs}}
    write_atomically(path, (json.dumps(values) + "\n").encode())
    return path


def _place(source: Path) -> tuple[Place | None, str | None]:
    """A function from pixels to the coordinates of a GeoTIFF, and their system; None for other images."""
    if source.suffix.lower() not in _TIFF:
        return None, None
    from ..data.rasters import open_raster

    with open_raster(source) as raster:
        transform, crs = raster.transform, raster.crs
    if transform is None:
        return None, None
    a, b, c, d, e, f = transform[:6]
    return (lambda x, y: (a * x + b * y + c, d * x + e * y + f)), crs and crs.to_string()
