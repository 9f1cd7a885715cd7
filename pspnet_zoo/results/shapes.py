"""Files of polygons beside the masks of a command, in the format of another tool."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from ..data.images import read_class_masks, read_prediction
from ..inference.outlines import Polygon, find_polygons
from ..meta import Labels
from ..storage.files import write_atomically
from .jobs import Job
from .polygons import Place, coco, geojson, labelme, yolo

TITLES = {"coco": "COCO", "labelme": "labelme", "yolo": "YOLO", "geojson": "GeoJSON"}
"""The names of the formats in sentences."""
FORMATS = ("masks", *TITLES)
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
) -> tuple[int, Path]:
    """Write the objects in the masks of images; those of a class called "background" are left out, as nobody draws it.

    COCO is one file, `coco.json`. labelme and GeoJSON have a file for each image, beside its mask. YOLO has a text for each image
    in `labels/`, and `data.yaml` with the names of the classes.

    Args:
        jobs: Images whose masks are written.
        labels: Of the class ids.
        output: Folder of the results.
        kind: One of `FORMATS`, but "masks".
        simplify: See `find_polygons`.
        min_area: See `find_polygons`.
        fail: Called with the error of each image whose file cannot be written.

    Returns:
        The number of images, and the file or folder to import or open.
    """
    done, found = 0, {}
    for job in jobs:
        if job.mask is None:
            continue
        try:
            mask = read_class_masks(job.mask, len(labels)) if labels.multilabel else read_prediction(job.mask)
            ids = [i for i, name in enumerate(labels.names) if name != "background"]
            polygons = [p for i in ids for p in find_polygons(mask, i, simplify=simplify, min_area=min_area)]
            height, width = mask.shape[-2:]
            if kind == "coco":
                name = PurePosixPath(job.stem).with_name(job.source.name).as_posix()
                # of two images of one name, from two folders, the second is called as its mask is
                found[f"{job.stem}{job.source.suffix}" if name in found else name] = ((height, width), polygons)
            else:
                _write_one(job, (height, width), polygons, labels, output, kind)
            done += 1
        except (ValueError, OSError) as error:
            fail(error)
    if kind == "coco":
        write_atomically(output / "coco.json", json.dumps(coco(found, labels)).encode())
        return done, output / "coco.json"
    if kind == "yolo":  # JSON is YAML; images are looked for in images/, beside labels/
        values = {"train": "images", "val": "images", "names": list(labels.names)}
        write_atomically(output / "data.yaml", (json.dumps(values, indent=2) + "\n").encode())
    return done, output


def _write_one(job: Job, size: tuple[int, int], polygons: list[Polygon], labels: Labels, output: Path, kind: str) -> None:
    if kind == "labelme":
        path = output / f"{job.stem}.json"
        values = labelme(os.path.relpath(job.source, path.parent), size, polygons, labels)
    elif kind == "yolo":
        path = output / "labels" / f"{job.stem}.txt"
        write_atomically(path, yolo(size, polygons).encode())
        return
    else:
        path = output / f"{job.stem}.geojson"
        place, crs = _place(job.source)
        values = geojson(polygons, labels, place)
        if crs:  # no longer in RFC 7946, and read by QGIS and GDAL
            values["crs"] = {"type": "name", "properties": {"name": crs}}
    write_atomically(path, (json.dumps(values) + "\n").encode())


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
