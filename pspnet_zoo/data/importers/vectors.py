"""Vectors with coordinates: polygons of GeoJSON, GeoPackage and Shapefile, drawn onto the GeoTIFF that they lie on.

pyogrio reads them, rasterio changes their coordinates to those of the image. Needs the extra `raster`.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import missing_extra
from ..images import ImageError
from ..rasters import Raster, open_raster, quiet
from .regions import Cutout
from .sample import Category, Images, Object, Sample, Source, SourceError, check_name, contained, walk
from .values import MaskOptions

SUFFIXES = (".geojson", ".gpkg", ".shp")
"""File name endings of vectors, lower case."""
FIELDS = ("class", "class_name", "classname", "label", "category", "name", "type")
"""Fields that hold a polygon's class, the first of them that a file has."""
_SPOTS = 16  # rows and columns of the points of an image that are looked up in the features' own coordinates
_HEADS = {".geojson": b"{", ".gpkg": b"SQLite format 3\0", ".shp": b"\x00\x00\x27\x0a"}  # GDAL's formats for other files name more


@dataclass(frozen=True)
class _Feature:
    name: str
    """For messages."""
    category: int | None


class _Layer:
    """Features of one coordinate reference system.

    Args:
        features: Their names and categories.
        geometries: A polygon or several for each, of shapely.
        crs: The reference system of their coordinates.
    """

    def __init__(self, features: list[_Feature], geometries: list[Any], crs: Any) -> None:
        self.features, self._geometries, self._crs = features, np.array(geometries, object), crs
        # once for all images of one reference system; of more, a country has few
        self.placed = lru_cache(maxsize=4)(self._placed)

    def _placed(self, crs: Any) -> tuple[np.ndarray, np.ndarray]:
        """The geometries in another reference system and their bounds, (N, 4), NaN where they have no place in it."""
        import shapely

        try:
            placed = shapely.transform(self._geometries, lambda points: self._change(points, crs))
        except Exception:  # of PROJ, for a single point that the other system cannot have
            placed = np.array([self._alone(geometry, crs) for geometry in self._geometries], object)
        return placed, shapely.bounds(placed)

    @cached_property
    def _tree(self) -> Any:
        import shapely

        return shapely.STRtree(self._geometries)

    def lost(self, points: np.ndarray, crs: Any) -> np.ndarray:
        """The features that hold points, (N, 2), by their own coordinates and none of these as they are placed in `crs`."""
        import shapely
        from rasterio.warp import transform

        try:
            own = np.stack(transform(crs, self._crs, points[:, 0], points[:, 1]), axis=1)
            points = self._change(own, crs)  # as the features are changed, which may differ from the way back
        except Exception:  # of PROJ, for a point that the features' system cannot have
            return np.empty(0, int)
        number, index = self._tree.query(shapely.points(own), predicate="intersects")
        return np.setdiff1d(index, index[shapely.intersects_xy(self.placed(crs)[0][index], *points[number].T)])

    def _alone(self, geometry: Any, crs: Any) -> Any:
        import shapely

        try:
            return shapely.transform(geometry, lambda points: self._change(points, crs))
        except Exception:
            return shapely.Polygon()

    def _change(self, points: np.ndarray, crs: Any) -> np.ndarray:
        from rasterio.warp import transform

        return np.stack([np.asarray(v) for v in transform(self._crs, crs, points[:, 0], points[:, 1])], axis=1)


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
    layers = {file: _layers(contained(folder, file), options.field, source) for file in files}
    rasters = list(walk(images.root, (".tif", ".tiff")))
    own = {image.stem for image in rasters}
    for image in rasters:
        here = [each for file in files if file.stem == image.stem or file.stem not in own for each in layers[file]]
        try:
            with open_raster(contained(images.root, image)) as raster:
                objects, size = _objects(raster, here, source.problems), raster.shape[1:]
        except (ImageError, SourceError) as error:
            source.problems.append(str(error))
            continue
        split = images.split(image)
        source.samples.append(Sample(images.name(image), image, (size[0], size[1]), tuple(objects), split=split))
    return source


def _layers(file: Path, field: str | None, source: Source) -> list[_Layer]:
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
        features, shapes = [], []
        names = _classes(file, layer, [str(name) for name in meta["fields"]], values, len(geometries), field, source)
        for index, (geometry, name) in enumerate(zip(geometries, names, strict=True)):
            shape = None if geometry is None else shapely.from_wkb(geometry, on_invalid="ignore")
            where = f"'{file}', feature {numbers[index] if numbers is not None else index}"
            if shape is None or shape.is_empty or shape.geom_type not in ("Polygon", "MultiPolygon"):
                left[shape.geom_type if shape is not None else "nothing" if geometry is None else "a damaged outline"] += 1
                continue
            category = None
            try:
                name = check_name(_name(name), where)
                keys = {each.name: key for key, each in source.categories.items()}
                category = keys.get(name, len(keys))
                source.categories.setdefault(category, Category(name))
            except SourceError as error:
                source.problems.append(f"{error}; its pixels are ignored")
            features.append(_Feature(where, category))
            shapes.append(shape)
        found.append(_Layer(features, shapes, meta["crs"]))
    if left:
        kinds = ", ".join(f"{count} of {kind}" for kind, count in left.items())
        source.problems.append(f"'{file}' has features that are no polygons and are left out: {kinds}")
    return found


def _name(value: Any) -> Any:
    """The name of a class as text, None for NULL."""
    if isinstance(value, str) or value is None:
        return value
    if value != value:  # NULL of numbers
        return None
    if isinstance(value, float | np.floating) and value.is_integer():  # whole numbers beside a NULL are read as fractions
        value = int(value)
    return str(value)


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


def _objects(raster: Raster, layers: list[_Layer], problems: list[str]) -> list[Object]:
    """The features that lie on an image, in pixels; a line is added to `problems` for each that cannot be placed there."""
    import shapely

    if raster.crs is None or raster.transform is None:
        missing = "CRS" if raster.crs is None else "transform"
        raise ImageError(f"'{raster.path}' states no {missing}, so that vectors have no place on it")
    inverse = ~raster.transform
    _, height, width = raster.shape
    frame = shapely.box(0, 0, width, height)
    corners = _affine(np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64), raster.transform)
    low, high = corners.min(0), corners.max(0)
    spots = _affine((np.indices((_SPOTS, _SPOTS)).reshape(2, -1).T + 0.4) / _SPOTS * (width, height), raster.transform)
    objects = []
    for layer in layers:
        placed, bounds = layer.placed(raster.crs)
        lost = layer.lost(spots, raster.crs)
        problems += [
            f"{layer.features[index].name} lies on '{raster.path}' by its own coordinates and not by those of the image, and is "
            "left out; cut it to the area of the image"
            for index in lost
        ]
        near = (bounds[:, :2] <= high).all(1) & (bounds[:, 2:] >= low).all(1)
        near[lost] = False
        for index in np.flatnonzero(near):
            shape = shapely.transform(placed[index], lambda points: _affine(points, inverse))
            if not np.isfinite(shapely.get_coordinates(shape)).all() or not shapely.make_valid(shape).intersects(frame):
                continue
            objects.append(_object(layer.features[index], shape, frame))
    return objects


def _object(feature: _Feature, shape: Any, frame: Any) -> Object:
    """A feature that lies on an image, or partly."""
    import shapely

    parts = shapely.get_parts(shape)
    is_whole = frame.contains(shape.envelope)
    if is_whole and not shapely.get_num_interior_rings(parts).any():
        return Object(feature.category, feature.name, tuple(_ring(part.exterior) for part in parts))
    parts = parts if is_whole else parts[shapely.intersects(shapely.envelope(parts), frame)]  # others would only take memory
    rings, holes = tuple(_ring(part.exterior) for part in parts), tuple(tuple(map(_ring, part.interiors)) for part in parts)
    return Cutout(feature.category, feature.name, rings, holes=holes)


def _ring(line: Any) -> np.ndarray:
    return np.asarray(line.coords)[:-1]


def _affine(points: np.ndarray, matrix: Any) -> np.ndarray:
    """(N, 2) points after an affine transform of rasterio."""
    (x, y), (a, b, c, d, e, f) = points.T, matrix[:6]
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)
