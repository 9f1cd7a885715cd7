"""Files of polygons beside the masks of a command, in the format of another tool.

They are drafts, which people correct in the same place. JSON files end with a digest of themselves, so that a file that nobody
edited is told from all others, and only it is replaced. YOLO's texts have no place for one: those that would change are kept.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..data.images import read_class_masks, read_prediction
from ..data.rasters import is_map, open_raster
from ..inference.outlines import Polygon, find_polygons
from ..meta import Labels
from ..storage.files import write_atomically
from .jobs import Job
from .polygons import Place, coco, geojson, labelme, yolo

TITLES = {"coco": "COCO", "labelme": "labelme", "yolo": "YOLO", "geojson": "GeoJSON"}
"""The names of the formats in sentences."""
FORMATS = ("masks", *TITLES)
"""Choices of `predict --format`; "masks" writes nothing more."""
_MARK = b', "pspnet_zoo": "'
_EDITED = "was edited, or another program or command wrote it"


def write_shapes(
    jobs: Iterable[Job],
    labels: Labels,
    output: Path,
    kind: str,
    *,
    simplify: float = 0,
    min_area: int = 0,
    skipped: Collection[Job] = (),
    fail: Callable[[Exception], object],
) -> tuple[int, int, Path]:
    """Write the objects in the masks of images; those of a class called "background" are left out, as nobody draws it.

    COCO is one file, `coco.json`. labelme and GeoJSON have a file for each image, beside its mask. YOLO has a text for each image
    in `labels/`, and `data.yaml` with the names of the classes. A file that was edited, or that something else wrote, is kept: that
    is an error of its image, unless the image was skipped. Beside texts, a `data.yaml` of other classes is kept too, as the numbers
    in them are of its classes.

    Args:
        jobs: Images whose masks are written.
        labels: Of the class ids.
        output: Folder of the results.
        kind: One of `FORMATS`, but "masks".
        simplify: See `find_polygons`.
        min_area: See `find_polygons`.
        skipped: Those of the jobs whose masks are of an earlier run.
        fail: Called with the error of each image whose file cannot be written or is kept.

    Returns:
        The numbers of images whose objects were written, and of files that were kept for skipped images; and the file or folder to
        import or open.
    """
    done, kept, new, found = 0, 0, False, {}
    if kind == "yolo" and not _write_yaml(output / "data.yaml", labels):
        if (output / "data.yaml").is_file():
            why = "names other classes, so that no labels were written"
            fail(ValueError(_kept(output / "data.yaml", why, "it and labels/")))  # whose numbers are of its classes
        else:
            fail(ValueError(_kept(output / "labels", "has texts whose classes no data.yaml names, so that no labels were written")))
        return 0, 0, output
    for job in jobs:
        if job.mask is None:
            continue
        new |= job not in skipped
        try:
            mask = _read_mask(job.mask, labels)
            ids = [i for i, name in enumerate(labels.names) if name != "background"]
            polygons = [p for i in ids for p in find_polygons(mask, i, simplify=simplify, min_area=min_area)]
            height, width = mask.shape[-2:]
            if kind == "coco":
                name = PurePosixPath(job.stem).with_name(job.source.name).as_posix()
                # of two images of one name, from two folders, the second is called as its mask is
                found[f"{job.stem}{job.source.suffix}" if name in found else name] = ((height, width), polygons)
            else:
                path, data = _file_of(job, (height, width), polygons, labels, output, kind)
                if not _write_unless_edited(path, data):
                    if job not in skipped:
                        raise ValueError(_kept(path, _EDITED))
                    kept += 1
                    continue
            done += 1
        except MemoryError:
            fail(ValueError(f"'{job.source}': its polygons need more memory than there is; its mask is written"))
        except (ValueError, OSError) as error:
            fail(error)
    if kind != "coco":
        return done, kept, output
    path = output / "coco.json"
    if _write_unless_edited(path, _marked(coco(found, labels))):
        return done, 0, path
    if new:
        fail(ValueError(_kept(path, _EDITED)))
    return 0, int(not new), path


def _read_mask(path: Path, labels: Labels) -> np.ndarray:
    """(H, W) class ids, or (classes, H, W) of a multi-label network."""
    if labels.multilabel:
        return read_class_masks(path, len(labels))
    if path.suffix != ".tif":
        return read_prediction(path)
    with open_raster(path) as raster:  # may have more pixels than Pillow opens
        return raster.read()[0]


def _marked(values: dict[str, Any]) -> bytes:
    """A JSON object, whose last value is the digest of the others."""
    text = json.dumps(values).encode()
    return text[:-1] + _MARK + sha256(text).hexdigest().encode() + b'"}\n'


def _is_unedited(data: bytes) -> bool:
    """Whether `_marked` gave these bytes."""
    text, _, rest = data.rpartition(_MARK)
    return rest == sha256(text + b"}").hexdigest().encode() + b'"}\n'


def _write_unless_edited(path: Path, data: bytes) -> bool:
    """Write a file; False if there is one already that is neither the same nor of `_marked`."""
    there = path.read_bytes() if path.is_file() else None
    if there is not None and there != data and not _is_unedited(there):
        return False
    if there != data:
        write_atomically(path, data)
    return True


def _kept(path: Path, why: str, what: str = "it") -> str:
    return f"'{path}' is kept, since it {why}. Move {what} away, or choose another folder with -o"


def _write_yaml(path: Path, labels: Labels) -> bool:
    """Write YOLO's list of the classes, or leave one that names the same.

    Returns:
        False if texts are there and it does not name the same, or if it names others and was edited.
    """
    names = list(labels.names)
    if path.is_file() and _names_in(path.read_bytes()) in (names, dict(enumerate(names))):
        return True
    if next((path.parent / "labels").rglob("*.txt"), None):
        return False
    # JSON is YAML; images are looked for in images/, beside labels/
    return _write_unless_edited(path, _marked({"train": "images", "val": "images", "names": names}))


def _names_in(data: bytes) -> Any:
    """The names of the classes in a data.yaml, a list or by number; None if there are none."""
    import yaml

    try:
        values = json.loads(data) if _is_unedited(data) else yaml.safe_load(data)  # which splits emojis that JSON escapes
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    return values.get("names") if isinstance(values, dict) else None


def _file_of(
    job: Job, size: tuple[int, int], polygons: list[Polygon], labels: Labels, output: Path, kind: str
) -> tuple[Path, bytes]:
    """The file of an image, and what to write into it."""
    if kind == "labelme":
        path = output / f"{job.stem}.json"
        values = labelme(os.path.relpath(job.source, path.parent), size, polygons, labels)
    elif kind == "yolo":
        return output / "labels" / f"{job.stem}.txt", yolo(size, polygons).encode()
    else:
        path = output / f"{job.stem}.geojson"
        place, crs = _place(job.source)
        values = geojson(polygons, labels, place)
        if crs:  # no longer in RFC 7946, and read by QGIS and GDAL
            values["crs"] = {"type": "name", "properties": {"name": crs}}
    return path, _marked(values)


def _place(source: Path) -> tuple[Place | None, str | None]:
    """A function from pixels to the coordinates of a GeoTIFF, and their system; None for other images."""
    if not is_map(source):
        return None, None
    with open_raster(source) as raster:
        transform, crs = raster.transform, raster.crs
    if transform is None:
        return None, None
    a, b, c, d, e, f = transform[:6]
    return (lambda x, y: (a * x + b * y + c, d * x + e * y + f)), crs and crs.to_string()
