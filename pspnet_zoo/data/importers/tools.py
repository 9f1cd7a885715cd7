"""Exports of annotation servers: CVAT for images 1.1 (XML) and Label Studio (JSON)."""

import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np

from ...extras import missing_extra
from .outlines import Keys
from .regions import brush, ellipse, rectangle, runs, turned
from .sample import (
    Category,
    Images,
    MissingImageError,
    Object,
    Sample,
    Source,
    SourceError,
    check_name,
    get,
    read_json,
    read_text,
    split_of,
    stated_size,
    to_ring,
)

_LARGEST_XML = 1 << 29  # bytes
_NO_SUBSET = r"default(_\d+)?"  # CVAT's name for the images of a project that are in no subset


def read_cvat(file: Path, images: Images) -> Source:
    """Read "CVAT for images 1.1": polygons, boxes, ellipses and masks, drawn by their z_order.

    Format: https://docs.cvat.ai/docs/manual/advanced/xml_format/. Entities of XML are refused.

    Raises:
        SourceError: If the file is not of this format.
        ImportError: If defusedxml is not installed.
    """
    root = _parse_xml(file)
    if root.find("track") is not None:
        raise SourceError(f'\'{file}\' is "CVAT for video"; export the task as "CVAT for images 1.1"')
    source = Source("cvat")
    by_name: dict[str, int] = {}
    for label in root.iterfind("meta//labels/label"):
        name = check_name(label.findtext("name"), f"'{file}', label")
        color = re.fullmatch("#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", (label.findtext("color") or "").lower())
        if name not in by_name:
            by_name[name] = len(by_name)
            source.categories[by_name[name]] = Category(name, tuple(int(c, 16) for c in color.groups()) if color else None)  # type: ignore
    for element in root.iterfind("image"):
        where = f"'{file}', image {element.get('name')!r}"
        try:
            size = stated_size(_number(element.get("height"), where), _number(element.get("width"), where), where)
            subset = element.get("subset") or ""
            path = images.find(element.get("name"), beside=images.root / "images" / subset)  # as exports of projects have them
            drawn = [_cvat_object(shape, by_name, where, source) for shape in sorted(element, key=_z_order)]
            split = split_of(subset) or (subset if subset.isidentifier() and not re.fullmatch(_NO_SUBSET, subset) else None)
            source.samples.append(Sample(images.name(path), path, size, tuple(filter(None, drawn)), split=split))
        except SourceError as error:
            source.problems.append(str(error))
    return source


def _parse_xml(file: Path) -> Any:
    try:
        from defusedxml.common import DefusedXmlException
        from defusedxml.ElementTree import ParseError, fromstring
    except ImportError as error:
        raise missing_extra("Reading XML of CVAT", "labels", error) from None
    try:
        root = fromstring(read_text(file, _LARGEST_XML))
    except (ParseError, ValueError, DefusedXmlException) as error:
        raise SourceError(f"'{file}' is not XML that is read here: {' '.join(str(error).split())}") from None
    if root.tag != "annotations":
        raise SourceError(f"'{file}' is not of CVAT: its root is <{root.tag[:40]}>, not <annotations>")
    return root


def _number(text: str | None, where: str, default: float | None = None) -> float:
    try:
        value = float(text) if text is not None else default
    except ValueError:
        value = None
    if value is None or not np.isfinite(value):
        raise SourceError(f"{where}: {text!r} must be a number")
    return value


def _z_order(element: Any) -> float:
    text = element.get("z_order", "0")
    return float(text) if re.fullmatch(r"-?\d{1,9}", text) else 0.0


def _cvat_object(shape: Any, by_name: dict[str, int], where: str, source: Source) -> Object | None:
    """An object; None, with a problem noted, for one that cannot be drawn, and for tags of a whole image."""
    if shape.tag == "tag":
        return None
    where = f"{where}, {shape.tag} of {shape.get('label')!r}"
    try:
        if (label := shape.get("label")) not in by_name:
            source.problems.append(f"{where}: this label is not defined; its pixels are ignored")
        category = by_name.get(label or "")
        if shape.tag == "mask":
            counts: list[str] = str(shape.get("rle") or "").split(",")
            box = [int(_number(shape.get(k), where)) for k in ("left", "top", "width", "height")]
            return Object(category, where, mask=partial(_cvat_mask, counts, box, where))
        return Object(category, where, (_cvat_ring(shape, where),))
    except SourceError as error:
        source.problems.append(str(error))
        return None


def _cvat_ring(shape: Any, where: str) -> np.ndarray:
    def number(key: str, default: float | None = None) -> float:
        return _number(shape.get(key), where, default)

    if shape.tag == "polygon":
        pairs = [point.split(",") for point in (shape.get("points") or "").split(";") if point]
        return to_ring(pairs, where)
    if shape.tag == "box":
        left, top, right, bottom = (number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
        ring = rectangle(left, top, right, bottom)
        return to_ring(turned(ring, (left + right) / 2, (top + bottom) / 2, number("rotation", 0)), where)
    if shape.tag == "ellipse":
        return to_ring(ellipse(number("cx"), number("cy"), number("rx"), number("ry"), number("rotation", 0)), where)
    raise SourceError(f"{where} has no area; draw a polygon, box, ellipse or mask")


def _cvat_mask(counts: list[str], box: list[int], where: str, height: int, width: int) -> np.ndarray:
    left, top, columns, rows = box
    if min(box) < 0 or left + columns > width or top + rows > height:
        raise SourceError(
            f"{where}: the mask of {columns}x{rows} at ({left}, {top}) is not inside of its image of {width}x{height}"
        )
    pixels = np.zeros((height, width), bool)
    pixels[top : top + rows, left : left + columns] = runs(_integers(counts), rows * columns, where).reshape(rows, columns)
    return pixels


def _integers(texts: list[str]) -> list[int]:
    return [int(text) if text.strip().isdecimal() and len(text) < 12 else -1 for text in texts]


def is_label_studio(values: Any) -> bool:
    """Whether a JSON file is an export of Label Studio."""
    return (
        isinstance(values, list)
        and bool(values)
        and isinstance(values[0], dict)
        and "annotations" in values[0]
        and "data" in values[0]
    )


def read_label_studio(file: Path, images: Images) -> Source:
    """Read Label Studio's JSON: polygons, rectangles, ellipses and brushes.

    Of a task with several annotations the first that was not cancelled is read.
    Format: https://labelstud.io/guide/task_format and the pages of the tags PolygonLabels, RectangleLabels, EllipseLabels and
    BrushLabels, whose results all end in "labels".

    Raises:
        SourceError: If the file is not of this format.
    """
    source, keys = Source("labelstudio"), Keys()
    tasks = read_json(file)
    if not is_label_studio(tasks):
        raise SourceError(f'\'{file}\' is not of Label Studio: it must be a list of tasks with "data" and "annotations"')
    more = 0
    for index, task in enumerate(tasks):
        where = f"'{file}', task {task.get('id', index)!r}" if isinstance(task, dict) else f"'{file}', task {index}"
        try:
            annotations = [a for a in get(task, "annotations", list, where) if isinstance(a, dict) and not a.get("was_cancelled")]
            path = _studio_image(get(task, "data", dict, where), images, where)
            if not annotations:
                raise SourceError(f"{where}: '{path}' has no annotation")
            more += len(annotations) > 1
            drawn, size = _studio_objects(get(annotations[0], "result", list, where), keys, where, source)
            source.samples.append(Sample(images.name(path), path, size, drawn))
        except SourceError as error:
            source.problems.append(str(error))
    if more:
        source.notes.append(f"{more} tasks have several annotations; the first of each is taken")
    source.categories = keys.categories()
    return source


def _studio_image(data: dict[str, Any], images: Images, where: str) -> Path:
    """The image of a task: below the source by its address, whose name may begin with eight digits that the server added."""
    texts = [v for v in data.values() if isinstance(v, str)]
    try:
        texts = [v for v in texts if Path(urlparse(unquote(v)).path + (urlparse(v).query or "")).suffix]
    except ValueError as error:
        raise SourceError(f"{where}: one of the addresses {', '.join(map(repr, texts))[:200]} is none: {error}") from None
    for text in texts:
        address = urlparse(text)
        path = PurePosixPath(parse_qs(address.query).get("d", [unquote(address.path)])[0].replace("\\", "/"))
        if ".." in path.parts:
            raise SourceError(f"{where}: the path {text!r} leads out of the source")
        folder = "/".join(part for part in path.parts[:-1] if part.strip("/") and ":" not in part)
        folder = re.sub(r"^(.*/)?data/upload(/\d+)?$", "", folder)  # the server's own
        for name in (path.name, re.sub("^[0-9a-f]{8}-", "", path.name)):
            try:
                return images.find(f"{folder}/{name}" if folder else name)
            except MissingImageError:
                continue
    raise SourceError(
        f"{where}: no image {texts[0] if texts else data!r} in '{images.root}'; give the folder of the images with --images"
    )


def _studio_objects(
    results: list[Any], keys: Keys, where: str, source: Source
) -> tuple[tuple[Object, ...], tuple[int, int] | None]:
    drawn, size = [], None
    for index, result in enumerate(results):
        name = f"{where}, result {index}"
        try:
            kind = get(result, "type", str, name)
            if not kind.endswith("labels"):
                continue  # choices, texts and relations
            value = get(result, "value", dict, name)
            label = check_name(next(iter(get(value, kind, list, name)), None), name)
            size = stated_size(result.get("original_height"), result.get("original_width"), name)
            if size is None:
                raise SourceError(f'{name} has no "original_width" and "original_height"')
            drawn.append(_studio_object(kind, value, size, keys[label], name))
        except SourceError as error:
            source.problems.append(str(error))
    return tuple(drawn), size


def _studio_object(kind: str, value: dict[str, Any], size: tuple[int, int], category: int, where: str) -> Object:
    if kind == "brushlabels":
        data = get(value, "rle", list, where)
        return Object(category, where, mask=lambda height, width: brush(data, height, width, where))
    scale = np.array([size[1], size[0]]) / 100
    if kind == "polygonlabels":
        return Object(category, where, (to_ring(get(value, "points", list, where), where) * scale,))
    keys = ("x", "y", "width", "height") if kind == "rectanglelabels" else ("x", "y", "radiusX", "radiusY")
    if kind not in ("rectanglelabels", "ellipselabels"):
        raise SourceError(f"{where} is of the type {kind!r}, which has no area here")
    x, y, across, down = (get(value, key, (int, float), where) * factor for key, factor in zip(keys, (*scale, *scale), strict=True))
    degrees = value.get("rotation", 0) if isinstance(value.get("rotation", 0), int | float) else 0
    if kind == "ellipselabels":
        return Object(category, where, (to_ring(ellipse(x, y, across, down, degrees), where),))
    return Object(category, where, (to_ring(turned(rectangle(x, y, x + across, y + down), x, y, degrees), where),))
