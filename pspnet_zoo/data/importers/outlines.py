"""Outlines: COCO, in one file; labelme and YOLO segmentation, in a file an image."""

import base64
import binascii
import math
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..images import SUFFIXES, ImageError
from .regions import box_mask, ellipse, rectangle, runs
from .sample import (
    MASK_FOLDERS,
    Category,
    Images,
    MissingImageError,
    Object,
    Sample,
    Source,
    SourceError,
    check_name,
    contained,
    get,
    image_header,
    read_json,
    read_text,
    split_of,
    stated_size,
    to_ring,
    walk,
)


def is_coco(values: Any) -> bool:
    """Whether a JSON file is of this format."""
    keys = ("images", "annotations", "categories")
    return isinstance(values, dict) and all(isinstance(values.get(key), list) for key in keys)


def annotation_files(root: Path, *, deep: bool = False) -> list[Path]:
    """The COCO files of a source: the file itself, or those of a folder or of its `annotations/`; of instances first.

    Where these hold none, those at any depth if it is `deep`, as train/_annotations.coco.json of Roboflow.
    """
    if root.is_file():
        return [root]
    found = [p for folder in (root, root / "annotations") for p in sorted(folder.glob("*.json")) if _looks_like_coco(p)]
    found = found or ([p for p in walk(root, [".json"]) if _looks_like_coco(p)] if deep else [])
    instances = [p for p in found if p.stem.startswith("instances")]
    return instances or found


def _looks_like_coco(path: Path) -> bool:
    try:
        return is_coco(read_json(path))
    except (SourceError, OSError):
        return False


def read_coco(root: Path, images: Images) -> Source:
    """Read the images, annotations and categories of all files.

    Format: https://cocodataset.org/#format-data, "Object Detection" and "Stuff Segmentation". Crowd regions
    are objects of their class, drawn below the others. An image's split is that of its file of several, or of its folder.

    Raises:
        SourceError: If a file is not of this format, or two files give one category id to different names.
    """
    source = Source("coco")
    files, listed = annotation_files(root, deep=True), set[Path]()
    splits = {file: _file_split(file, root) if len(files) > 1 else None for file in files}
    for file in files:
        values, where = read_json(_own(root, file)), f"'{file}'"
        if not is_coco(values):
            raise SourceError(f'{where} is not COCO: it must be an object with the lists "images", "annotations" and "categories"')
        for category in get(values, "categories", list, where):
            number, name = get(category, "id", int, f"{where}, category"), check_name(category.get("name"), f"{where}, category")
            if source.categories.setdefault(number, Category(name)).name != name:
                raise SourceError(f"{where}: category {number} is '{name}', and '{source.categories[number].name}' in another file")
        objects = _objects(values, where, source)
        entries = get(values, "images", list, where)
        ids = Counter(repr(image.get("id")) for image in entries if isinstance(image, dict))
        for index, image in enumerate(entries):
            try:
                source.samples.append(_sample(image, f"{where}, image {index}", images, objects, file, splits[file], listed, ids))
            except SourceError as error:
                source.problems.append(str(error))
        for number, left in objects.items():
            source.problems.append(f"{where}: {len(left)} annotations are of image {number}, which is not listed")
    if not any(splits.values()) and len({sample.split for sample in source.samples} - {None}) < 2:
        source.samples = [replace(sample, split=None) for sample in source.samples]  # one folder of images is no split
    if unlisted := _unlisted(listed):
        names = ", ".join(path.name for path in unlisted[:3]) + (", ..." if len(unlisted) > 3 else "")
        source.notes.append(f"{len(unlisted)} images are beside those of the JSON and not in it; they are left out: {names}")
    return source


def _own(root: Path, file: Path) -> Path:
    """A file of the source; the source itself may be a link."""
    return contained(root, file) if file != root and file.is_symlink() else file


def _file_split(file: Path, root: Path) -> str | None:
    return split_of(file.stem) or split_of("/".join(file.relative_to(root).parts[:-1]))


def _unlisted(listed: set[Path]) -> list[Path]:
    """The images in the folders of those that are listed, but for these."""
    beside = (path for folder in sorted({path.parent for path in listed}) for path in sorted(folder.iterdir()))
    return [p for p in beside if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p not in listed]


def _sample(
    image: Any,
    where: str,
    images: Images,
    objects: dict[int, list[Object]],
    file: Path,
    split: str | None,
    listed: set[Path],
    ids: Counter[str],
) -> Sample:
    """The sample of an entry of the list of images; its image is added to `listed`."""
    number = get(image, "id", int, where)
    drawn = objects.pop(number, [])  # also of an image that fails: its annotations are not those of an unlisted one
    if ids[repr(number)] > 1:
        raise SourceError(f"{where}: {ids[repr(number)]} images have the id {number}; none of them is imported")
    beside = None if file.parent.name.lower() in MASK_FOLDERS else file.parent
    path = images.find(get(image, "file_name", str, where), beside=beside)
    listed.add(path)
    size = stated_size(image.get("height"), image.get("width"), where)
    return Sample(images.name(path), path, size, tuple(drawn), split=split or images.split(path))


def _objects(values: dict[str, Any], where: str, source: Source) -> dict[int, list[Object]]:
    """The objects of each image id, crowds first."""
    objects: dict[int, list[Object]] = {}
    for index, annotation in enumerate(get(values, "annotations", list, where)):
        name = f"{where}, annotation {index}"
        try:
            name = f"{where}, annotation {annotation.get('id', index)!r}" if isinstance(annotation, dict) else name
            image, number = get(annotation, "image_id", int, name), get(annotation, "category_id", int, name)
            if number not in source.categories:
                source.problems.append(f"{name} is of category {number}, which is not defined; its pixels are ignored")
            category, crowd = number if number in source.categories else None, annotation.get("iscrowd") == 1
            region = _region(annotation.get("segmentation"), category, crowd, name)
        except SourceError as error:
            source.problems.append(str(error))
            continue
        objects.setdefault(image, []).append(region)
    if crowds := sum(each.crowd for drawn in objects.values() for each in drawn):
        source.notes.append(
            f"{crowds} crowd regions are drawn as their class, below the single objects (unless --priority is smallest or classes)"
        )
    return {image: sorted(drawn, key=lambda each: not each.crowd) for image, drawn in objects.items()}


def _region(segmentation: Any, category: int | None, crowd: bool, where: str) -> Object:
    if isinstance(segmentation, dict):
        size, counts = get(segmentation, "size", list, where), segmentation.get("counts")
        return Object(category, where, mask=partial(_decode, size, counts, where), crowd=crowd)
    if not isinstance(segmentation, list):
        raise SourceError(f"{where} has no polygons and no run lengths; a box alone says nothing of single pixels")
    if not segmentation:
        raise SourceError(f"{where} is empty")
    return Object(category, where, tuple(to_ring(ring, where) for ring in segmentation), crowd=crowd)


def _decode(size: Any, counts: Any, where: str, height: int, width: int) -> np.ndarray:
    if size != [height, width]:
        raise SourceError(f"{where}: the run lengths are of the size {size}; the image has [{height}, {width}] (height, width)")
    if isinstance(counts, list):
        return runs(counts, height * width, where).reshape(width, height).T
    return runs(_uncompressed(counts, where), height * width, where).reshape(width, height).T


def _uncompressed(text: Any, where: str) -> list[int]:
    """The run lengths of COCO's text: groups of five bits with a sixth for "more", from the third on as differences to two before.

    pycocotools reads them too, but behind the end of a damaged text. Source: cocodataset/cocoapi, common/maskApi.c, rleFrString.
    """
    if not isinstance(text, str) or not text or not all("0" <= c <= "o" for c in text) or (ord(text[-1]) - 48) & 32:
        raise SourceError(f"{where}: the run lengths are not those of COCO")
    counts, value, shift = [], 0, 0
    for byte in text.encode():
        value |= (byte - 48 & 31) << shift
        shift += 5
        if not byte - 48 & 32:
            value -= (byte - 48 & 16) << shift - 4  # the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
        elif shift > 60:
            raise SourceError(f"{where}: a run length is too large")
    return counts


def is_labelme(values: Any) -> bool:
    """Whether a JSON file is of labelme."""
    return isinstance(values, dict) and "shapes" in values


def read_labelme(root: Path, images: Images) -> Source:
    """Read a folder of labelme's JSON files, one an image; classes are the labels in the order of the alphabet.

    Format: github wkentaro/labelme, labelme/_label_file.py. Polygons, rectangles, circles and masks have pixels. Points and lines
    have none, and are reported.
    """
    source, keys = Source("labelme"), Keys()
    for file in [root] if root.is_file() else walk(root, [".json"]):
        try:
            source.samples.append(_labelme_sample(_own(root, file), root, images, keys, source))
        except SourceError as error:
            source.problems.append(str(error))
    source.categories = keys.categories()
    return source


def _labelme_sample(file: Path, root: Path, images: Images, keys: "Keys", source: Source) -> Sample:
    values, where = read_json(file), f"'{file}'"
    shapes, objects = get(values, "shapes", list, where), []
    for index, shape in enumerate(shapes):
        name = f"{where}, shape {index}"
        try:
            objects.append(_labelme_object(shape, keys, name))
        except SourceError as error:
            source.problems.append(str(error))
    size = stated_size(values.get("imageHeight"), values.get("imageWidth"), where)
    split = split_of("/".join(file.relative_to(root).parts[:-1]))  # the root's own name says nothing
    try:
        path = images.find(values.get("imagePath"), beside=file.parent)
        return Sample(images.name(path), path, size, tuple(objects), split=split)
    except MissingImageError:
        if not isinstance(data := values.get("imageData"), str):
            raise
    return Sample(file.stem, partial(_decoded, data, where), size, tuple(objects), split=split)


def _decoded(data: str, where: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise SourceError(f"{where}: imageData is not base64: {error}") from None


def _labelme_object(shape: Any, keys: "Keys", where: str) -> Object:
    label = check_name(get(shape, "label", str, where), where)
    points, kind = get(shape, "points", list, where), shape.get("shape_type") or "polygon"
    if kind in ("polygon", "oriented_rectangle"):
        ring = to_ring(points, where)
    elif kind == "mask":
        (left, top), *_ = _points(points, 2, where)
        data = _decoded(get(shape, "mask", str, where), where)
        return Object(keys[label], where, mask=partial(box_mask, data, int(left), int(top), where))
    elif kind == "rectangle":
        corners = np.array(_points(points, None, where))
        ring = to_ring(rectangle(*corners.min(0), *corners.max(0)), where)
    elif kind == "circle":
        (x, y), (edge_x, edge_y) = _points(points, 2, where)
        ring = to_ring(ellipse(x, y, radius := math.hypot(edge_x - x, edge_y - y), radius), where)
    else:
        raise SourceError(f"{where} is a {kind!r}, which has no area; draw a polygon, rectangle, circle or mask")
    return Object(keys[label], where, (ring,))


def _points(points: list[Any], number: int | None, where: str) -> list[tuple[float, float]]:
    try:
        found = [(float(x), float(y)) for x, y in points]
    except (ValueError, TypeError, OverflowError):
        found = []
    if len(found) < 2 or (number and len(found) != number) or not all(math.isfinite(v) for point in found for v in point):
        raise SourceError(f"{where} has {len(points)} points; it must have {number or '2 or 4'}, each two numbers")
    return found


class Keys(dict[str, int]):
    """A number for each name, given when it is first asked for."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]

    def categories(self) -> dict[int, Category]:
        """Categories by number, in the order of the names, so that it does not depend on which file comes first."""
        return {self[name]: Category(name) for name in sorted(self)}


def is_yolo(root: Path) -> bool:
    """Whether a folder has YOLO's `labels/` with texts."""
    return root.suffix.lower() in (".yaml", ".yml") or any(
        folder.name == "labels"
        for folder in {path.parent for path in _label_files(root)} | {p.parent.parent for p in _label_files(root)}
    )


def _label_files(root: Path) -> list[Path]:
    return [p for p in walk(root, [".txt"]) if "labels" in p.relative_to(root).parts[:-1]]


def read_yolo(root: Path, images: Images) -> Source:
    """Read YOLO segmentation: `images/`, `labels/` with a line of normalised coordinates an object, and names in a YAML file.

    Format: https://docs.ultralytics.com/datasets/segment/. An image in `images/` without a text has no objects. Images of another
    folder belong to the texts of their path or name; those without a text are left out.

    Raises:
        SourceError: If there are no names.
    """
    source = Source("yolo", _yolo_names(root))
    folder = root if root.is_dir() else root.parent
    texts = {_without(path.relative_to(folder), "labels"): path for path in _label_files(folder)}
    found = {path: path.relative_to(images.root) for path in walk(images.root)}
    apart = images.root.resolve() != folder.resolve()
    if not apart:
        found = {path: relative for path, relative in found.items() if "images" in relative.parts[:-1]}
    keys = {path: _without(relative, "images") for path, relative in found.items()}
    taken = {path: texts.pop(key) for path, key in keys.items() if key in texts}
    if apart:
        named: dict[str, list[Path]] = {}
        for path in found.keys() - taken:
            named.setdefault(path.stem, []).append(path)
        for key in list(texts):
            if len(same := named.pop(key.name, [])) == 1:
                taken[same[0]] = texts.pop(key)
    bare = len(found) - len(taken)
    for path in sorted(taken) if apart else found:
        try:
            image, text = contained(images.root, path), taken.get(path)
            split = split_of("/".join(found[path].parts[:-1]))
            source.samples.append(_yolo_sample(images.name(image), image, text and contained(folder, text), split, source))
        except (SourceError, ImageError) as error:
            source.problems.append(str(error))
    source.problems += [f"'{text}' has no image" for text in texts.values()]
    if bare:
        fate = "they are left out" if apart else "nothing is drawn in them"
        source.notes.append(f"{bare} images have no file in labels/: {fate}")
    return source


def _without(path: Path, folder: str) -> Path:
    """A path without its ending and its last folder of this name."""
    parts = list(path.with_suffix("").parts)
    if folder in parts[:-1]:
        del parts[len(parts) - 2 - parts[-2::-1].index(folder)]
    return Path(*parts)


def _yolo_names(root: Path) -> dict[int, Category]:
    folder = root if root.is_dir() else root.parent
    files = [root] if root.is_file() else [p for ending in ("*.yaml", "*.yml") for p in sorted(root.glob(ending))]
    for file in files:
        try:
            values = yaml.safe_load(read_text(file, 1 << 20))
        except (yaml.YAMLError, RecursionError) as error:
            raise SourceError(f"'{file}' is not YAML: {' '.join(str(error).split())}") from None
        names = values.get("names") if isinstance(values, dict) else None
        if isinstance(names, list):
            names = dict(enumerate(names))
        if isinstance(names, dict) and names and all(type(key) is int for key in names):
            if strange := [key for key, name in names.items() if isinstance(name, list | dict)]:
                raise SourceError(f"'{file}': the name of class {strange[0]} is a {type(names[strange[0]]).__name__}; give a text")
            return {key: Category(check_name(str(name), f"'{file}'")) for key, name in sorted(names.items())}
    if (file := folder / "classes.txt").is_file():
        lines = read_text(file, 1 << 20).rstrip().splitlines()
        return {number: Category(check_name(line, f"'{file}'")) for number, line in enumerate(lines)}
    raise SourceError(f"'{folder}' has no YAML file with \"names\", the names of the classes by number, nor classes.txt")


def _yolo_sample(name: str, image: Path, text: Path | None, split: str | None, source: Source) -> Sample:
    height, width = image_header(image).size
    objects = []
    for number, line in enumerate(read_text(text).splitlines() if text else [], 1):
        where = f"'{text}', line {number}"
        if not line.strip():
            continue
        try:
            key, *numbers = line.split()
            category = int(key) if key.isdecimal() and len(key) < 10 else None
            if category not in source.categories:
                source.problems.append(f"{where} is of class {key[:20]!r}, which has no name; its pixels are ignored")
                category = None
            if len(numbers) == 4:
                raise SourceError(f"{where} is a box; segmentation needs outlines of three or more points")
            if len(numbers) % 2:
                raise SourceError(f"{where} has {len(numbers)} coordinates; it must have pairs")
            ring = to_ring(numbers, where) * (width, height)
            objects.append(Object(category, where, (ring,)))
        except SourceError as error:
            source.problems.append(str(error))
    return Sample(name, image, None, tuple(objects), split=split)
