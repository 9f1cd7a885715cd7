"""Vectors with coordinates: polygons of GeoJSON, GeoPackage and Shapefile, drawn onto the GeoTIFF that they lie on.

pyogrio reads them, rasterio changes their coordinates to those of the image. Needs the extra `raster`.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import missing_extra
from ..images import ImageError
from ..rasters import Raster, open_raster, quiet
from .regions import fill
from .sample import Category, Images, Object, Sample, Source, SourceError, check_name, contained, split_of, walk
from .values import MaskOptions

SUFFIXES = (".geojson", ".gpkg", ".shp")
"""File name endings of vectors, lower case."""
FIELDS = ("class", "class_name", "classname", "label", "category", "name", "type")
"""Fields that hold a polygon's class, the first of them that a file has."""
_HEADS = {".geojson": b"{", ".gpkg": b"SQLite format 3\0", ".shp": b"\x00\x00\x27\x0a"}  # GDAL's formats for other files name more


@dataclass(frozen=True)
class _Feature:
    name: str
    """For messages."""
    category: int | None
    geometry: Any
    """A polygon or several, of shapely."""
    crs: Any


def read_vectors(root: Path, images: Images, options: MaskOptions) -> Source:
    """Read the polygons of all vector files, and the GeoTIFF that they lie on.

    A file with the stem of an image is of that image alone; the others are of all images that they lie on. An image without
    polygons is one where nobody drew.

    Raises:
        SourceError: If a file cannot be read, or has no field for the class.
        ImportError: If the extra is not installed.
    """
    source = Source("vectors")
    files = [root] if root.is_file() else list(walk(root, SUFFIXES))
    folder = root if root.is_dir() else root.parent
    features = {file: _features(contained(folder, file), options.field, source) for file in files}
    rasters = list(walk(images.root, (".tif", ".tiff")))
    own = {image.stem for image in rasters}
    for image in rasters:
        here = [f for file in files if file.stem == image.stem or file.stem not in own for f in features[file]]
        try:
            with open_raster(contained(images.root, image)) as raster:
                objects, size = _objects(raster, here), raster.shape[1:]
        except (ImageError, SourceError) as error:
            source.problems.append(str(error))
            continue
        split = split_of("/".join(image.relative_to(images.root).parts[:-1]))
        source.samples.append(Sample(images.name(image), image, (size[0], size[1]), tuple(objects), split=split))
    return source


def _features(file: Path, field: str | None, source: Source) -> list[_Feature]:
    try:
        import pyogrio.raw
        import shapely
    except ImportError as error:
        raise missing_extra(f"'{file}'", "raster", error) from None
    with file.open("rb") as opened:
        if not opened.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_HEADS.get(file.suffix.lower(), b"")):
            raise SourceError(f"'{file}' is no {file.suffix[1:]} file")
    found, left = [], Counter[str]()
    try:
        with quiet():
            layers = [name for name, kind in pyogrio.list_layers(file) if kind is not None]
            read = [pyogrio.raw.read(file, layer=layer, force_2d=True) for layer in layers]
    except Exception as error:  # of GDAL, in its own words
        raise SourceError(f"'{file}' cannot be read: {' '.join(str(error).split())[:200]}") from None
    for layer, (meta, numbers, geometries, values) in zip(layers, read, strict=True):
        if not meta["crs"]:
            raise SourceError(f"'{file}' states no coordinate reference system, such as a .prj file beside a Shapefile")
        names = _classes(file, layer, [str(name) for name in meta["fields"]], values, len(geometries), field, source)
        for index, (geometry, name) in enumerate(zip(geometries, names, strict=True)):
            shape = None if geometry is None else shapely.from_wkb(geometry, on_invalid="ignore")
            where = f"'{file}', feature {numbers[index] if numbers is not None else index}"
            if shape is None or shape.is_empty or shape.geom_type not in ("Polygon", "MultiPolygon"):
                left[shape.geom_type if shape is not None else "nothing" if geometry is None else "a damaged outline"] += 1
                continue
            category = None
            try:
                name = check_name(name if isinstance(name, str) or name is None or name != name else str(name), where)
                keys = {each.name: key for key, each in source.categories.items()}
                category = keys.get(name, len(keys))
                source.categories.setdefault(category, Category(name))
            except SourceError as error:
                source.problems.append(f"{error}; its pixels are ignored")
            found.append(_Feature(where, category, shape, meta["crs"]))
    if left:
        kinds = ", ".join(f"{count} of {kind}" for kind, count in left.items())
        source.problems.append(f"'{file}' has features that are no polygons and are left out: {kinds}")
    return found


def _classes(file: Path, layer: str, fields: list[str], values: Any, count: int, wanted: str | None, source: Source) -> list[Any]:
    """The class of each feature of a layer."""
    by_name = {field.lower(): column for field, column in zip(fields, values, strict=True)}
    chosen = wanted.lower() if wanted else next((field for field in FIELDS if field in by_name), None)
    if chosen is None or chosen not in by_name:
        what = f"no field '{wanted}'" if wanted else "no field that is called as classes are"
        raise SourceError(f"'{file}' has {what}; name one by --class-field: {', '.join(fields) or 'it has none'}")
    if not wanted:
        source.notes.append(f"Classes: the field '{chosen}' of '{file.name}', {layer}: {count} features (--class-field)")
    return list(by_name[chosen])


def _objects(raster: Raster, features: list[_Feature]) -> list[Object]:
    """The features that lie on an image, in pixels."""
    import shapely
    from rasterio.warp import transform

    if raster.crs is None or raster.transform is None:
        missing = "CRS" if raster.crs is None else "transform"
        raise ImageError(f"'{raster.path}' states no {missing}, so that vectors have no place on it")
    inverse = ~raster.transform
    _, height, width = raster.shape
    frame = shapely.box(0, 0, width, height)
    objects = []
    for feature in features:

        def to_pixels(points: np.ndarray, crs: Any = feature.crs) -> np.ndarray:
            x, y = (np.asarray(values) for values in transform(crs, raster.crs, points[:, 0], points[:, 1]))
            a, b, c, d, e, f = inverse[:6]
            return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

        shape = shapely.transform(feature.geometry, to_pixels)
        if not np.isfinite(shapely.get_coordinates(shape)).all() or not shapely.make_valid(shape).intersects(frame):
            continue
        parts = shapely.get_parts(shape)
        rings = [(np.asarray(p.exterior.coords)[:-1], [np.asarray(r.coords)[:-1] for r in p.interiors]) for p in parts]
        if frame.contains(shape.envelope) and not any(holes for _, holes in rings):
            objects.append(Object(feature.category, feature.name, tuple(ring for ring, _ in rings)))
        elif (mask := _mask(rings, height, width)).any():
            packed = np.packbits(mask)
            objects.append(Object(feature.category, feature.name, mask=lambda h, w, bits=packed: _unpacked(bits, h, w)))
    return objects


def _mask(rings: list[tuple[np.ndarray, list[np.ndarray]]], height: int, width: int) -> np.ndarray:
    """The pixels inside of polygons, without those in their holes."""
    mask = np.zeros((height, width), bool)
    for ring, holes in rings:
        part = fill(ring, height, width)
        for hole in holes:
            part &= ~fill(hole, height, width)
        mask |= part
    return mask


def _unpacked(bits: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)
