"""Images and masks that belong together by their names, and Pascal VOC with its lists."""

import contextlib
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..labels import VOC
from .sample import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    Category,
    Images,
    MissingImageError,
    Object,
    Sample,
    Source,
    SourceError,
    contained,
    inside,
    read_text,
    walk,
)
from .values import COLOR, MaskImage, MaskOptions, find_table, interpret, pack, scan

_SUFFIX = re.compile(r"[_.-](masks?|labels?|gt|seg|segmentation|annotation|labelids|color)$", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """An image and its mask, or its masks of one object each."""

    image: Path
    masks: tuple[Path, ...]
    classes: tuple[str, ...] = ()
    """The class of each mask where the names of the files have it."""
    split: str | None = None


def read_masks(root: Path, images: Images, options: MaskOptions) -> Source:
    """Read images and masks that belong together by their names.

    Raises:
        SourceError: If there are no pairs, or their masks hold too many values.
    """
    pairs, problems = find_pairs(root, images, options.pattern)
    if options.kind == "instances" or (options.kind is None and any(len(p.masks) > 1 or p.classes for p in pairs)):
        source = _instances(pairs, images, options.names)
    else:
        source = Source("masks")
        several = [p for p in pairs if len(p.masks) > 1]
        source.problems += [f"'{p.image}' has {len(p.masks)} masks; --format instances reads each as an object" for p in several]
        pairs = [p for p in pairs if p not in several]
        values = interpret(source, [MaskImage(p.masks[0]) for p in pairs], find_table(root, options.colors), options)
        source.samples = [
            Sample(images.name(p.image), p.image, values=read, split=p.split) for p, read in zip(pairs, values, strict=True) if read
        ]
    source.problems[:0] = problems
    return source


def read_voc(root: Path, images: Images, options: MaskOptions) -> Source:
    """Read `SegmentationClass/`, `JPEGImages/` and the lists in `ImageSets/Segmentation/`.

    Names are those of `labelmap.txt`, which CVAT and datumaro write, or else Pascal VOC's; 255 is ignored.
    Source: VOC devkit, VOCcode/VOCinit.m.

    Raises:
        SourceError: If there is no list, or nothing of what the lists name can be read.
    """
    pairs, problems, without = voc_pairs(root, images)
    if not pairs:
        elsewhere = "; if the images are in another folder, name it by --images" if images.root == root else ""
        first = f". The first problem: {problems[0]}{elsewhere}" if problems else ""
        raise SourceError(f"The lists in '{root / 'ImageSets'}' name no image that is there with its mask{first}")
    source = Source("voc", problems=problems)
    values, _, readers = scan([MaskImage(p.masks[0]) for p in pairs], source.problems)
    table = find_table(root, options.colors) or {
        pack(color): Category(name, color) for name, color in zip(VOC.names, VOC.colors, strict=True)
    }
    is_color = any(value >= COLOR for value in values)
    source.categories = table if is_color else dict(enumerate(table.values()))
    source.undrawn = next((key for key, each in source.categories.items() if each.name == "background"), None)
    source.ignored = frozenset({pack((224, 224, 192)) if is_color else 255})  # the palette's color of 255
    source.samples = [
        Sample(images.name(p.image), p.image, values=read, split=p.split) for p, read in zip(pairs, readers, strict=True) if read
    ]
    if without:
        source.notes.append(f"{without} images of the test list have no mask and are left out")
    return source


def _instances(pairs: list[Pair], images: Images, names: Sequence[str]) -> Source:
    source = Source("instances")
    classes = sorted({name for pair in pairs for name in pair.classes}) or [names[0] if names else "object"]
    source.categories = {key: Category(name) for key, name in enumerate(classes)}
    for pair in pairs:
        keys = [classes.index(name) for name in pair.classes] if pair.classes else [0] * len(pair.masks)
        objects = [Object(k, f"'{m}'", mask=partial(_instance, m)) for k, m in zip(keys, pair.masks, strict=True)]
        source.samples.append(Sample(images.name(pair.image), pair.image, objects=tuple(objects), split=pair.split))
    if not any(pair.classes for pair in pairs):
        source.notes.append(f"Each mask is one object, where it is not 0: '{classes[0]}' (--names)")
    return source


def _instance(path: Path, height: int, width: int) -> np.ndarray:
    pixels = MaskImage(path).values() & (COLOR - 1) > 0
    if pixels.shape != (height, width):
        raise SourceError(f"'{path}' is {pixels.shape[1]}x{pixels.shape[0]}; its image is {width}x{height}")
    return pixels


def find_pairs(root: Path, images: Images, pattern: str | None) -> tuple[list[Pair], list[str]]:
    """The pairs below a folder, and a line for each image without a mask and each mask without an image.

    Without a pattern, a mask lies in a folder such as `masks/` where the image lies in `images/`, or beside its image; its
    name is the image's, or ends in "_mask", "_label" or the like. Several masks of one image are in a folder of its name, or in the
    `masks/` beside the `images/` that holds it alone.

    Args:
        root: Folder of the source; links that lead out of it are refused.
        images: Where the images are.
        pattern: Path of the masks of an image below `root`: "{stem}" is the image's name without suffix, "*" anything in one name,
            and "{class}" the name of the class. A mask that fits several stems is of the longest.

    Raises:
        SourceError: If no pair is found.
    """
    found, used = (_by_pattern if pattern else _by_folders)(root, images, pattern or "")
    problems, pairs = [], []
    for image, masks in found.items():
        try:
            contained(root if image.is_relative_to(root) else images.root, image)
            files = tuple(contained(root, mask) for mask, _ in masks)
            if not files:
                raise SourceError(f"'{image}' has no mask")
            classes = tuple(name for _, name in masks if name is not None)
            pairs.append(Pair(image, files, classes, images.split(image)))
        except SourceError as error:
            problems.append(str(error))
    if not pairs:
        where = (
            f"for the pattern '{pattern}'" if pattern else "by their names; say where masks are with --masks 'labels/{stem}.png'"
        )
        raise SourceError(f"No images and masks in '{root}' belong together {where}")
    problems += [f"'{mask}' is a mask without an image" for mask in sorted(used)]
    return pairs, problems


_Found = dict[Path, list[tuple[Path, str | None]]]


def _by_pattern(root: Path, images: Images, pattern: str) -> tuple[_Found, set[Path]]:
    """The masks of each image, with their classes; and the masks that are left."""
    if "{stem}" not in pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise SourceError(f"The pattern of masks is '{pattern}'; it must be a path below the source with {{stem}}")
    as_glob = _merge_stars(glob.escape(pattern).replace("[*]", "*").replace("{class}", "*"))
    left = {path for path in root.glob(_merge_stars(as_glob.replace("{stem}", "*"))) if path.is_file()}
    found: _Found = {path: [] for path in walk(images.root) if path not in left}
    for image, masks in found.items():
        own = (
            re.escape(pattern).replace(r"\{stem\}", re.escape(image.stem)).replace(r"\*", "[^/]*").replace(r"\{class\}", "([^/]+)")
        )
        for mask in sorted(root.glob(as_glob.replace("{stem}", glob.escape(image.stem)))):
            if match := re.fullmatch(own, mask.relative_to(root).as_posix()):
                masks.append((mask, match[1] if "{class}" in pattern else None))
    longest: dict[Path, int] = {}
    for image, masks in found.items():
        for mask, _ in masks:
            longest[mask] = max(longest.get(mask, 0), len(image.stem))
    found = {image: [each for each in masks if len(image.stem) == longest[each[0]]] for image, masks in found.items()}
    left -= {mask for masks in found.values() for mask, _ in masks}
    return found, left


def _merge_stars(pattern: str) -> str:
    """A pattern without "**", which would be any number of folders."""
    return re.sub(r"\*+", "*", pattern)


def _by_folders(root: Path, images: Images, _: str) -> tuple[_Found, set[Path]]:
    files = [*walk(root)] if images.root.is_relative_to(root) else [*walk(root), *walk(images.root)]
    masks = {p for p in files if _has(p, root, MASK_FOLDERS)}
    others = [p for p in files if p not in masks]
    if images.root != root:
        candidates = [p for p in others if p.is_relative_to(images.root)]
    else:
        candidates = [p for p in others if _has(p, root, IMAGE_FOLDERS)] or others
    if not masks:  # beside each other
        names = {p.with_suffix("") for p in candidates}
        masks = {p for p in candidates if _SUFFIX.search(p.stem) and p.with_name(_SUFFIX.sub("", p.stem)) in names}
        candidates = [p for p in candidates if p not in masks]
    by_key: dict[tuple[str, ...], list[Path]] = {}
    for mask in sorted(masks):
        parts = _key(mask, root)
        by_key.setdefault(parts, []).append(mask)
        if (short := _SUFFIX.sub("", parts[-1])) != parts[-1]:
            by_key.setdefault((*parts[:-1], short), []).append(mask)
    in_folder: dict[tuple[str, ...], list[Path]] = {}
    for mask in sorted(masks):
        in_folder.setdefault(_key(mask, root)[:-1], []).append(mask)
    alone: dict[tuple[str, ...], int] = {}
    keys = {candidate: _key(candidate, root if candidate.is_relative_to(root) else images.root) for candidate in candidates}
    for key in keys.values():
        alone[key[:-1]] = alone.get(key[:-1], 0) + 1
    found: _Found = {}
    for candidate, key in keys.items():
        own = (
            by_key.get(key, [])[:1]
            or in_folder.get(key)
            or (in_folder.get(key[:-1], []) if key[:-1] and alone[key[:-1]] == 1 else [])
        )
        found[candidate] = [(mask, None) for mask in own]
        masks.difference_update(own)
    return found, masks


def _has(path: Path, root: Path, names: tuple[str, ...]) -> bool:
    return path.is_relative_to(root) and any(part.lower() in names for part in path.relative_to(root).parts[:-1])


def _key(path: Path, root: Path) -> tuple[str, ...]:
    """The part that the names of an image and of its mask share."""
    parts = path.relative_to(root).with_suffix("").parts
    return (*(part for part in parts[:-1] if part.lower() not in (*IMAGE_FOLDERS, *MASK_FOLDERS)), parts[-1])


def voc_pairs(root: Path, images: Images) -> tuple[list[Pair], list[str], int]:
    """The pairs of VOC's lists, a line for each problem, and the number of images without a mask.

    Args:
        root: Folder of the source.
        images: Where the images are, if not in its JPEGImages.

    Raises:
        SourceError: If there is no list.
    """
    lists = root / "ImageSets" / "Segmentation"
    names = [s for s in ("train", "val", "test") if (lists / f"{s}.txt").is_file()] or [p.stem for p in sorted(lists.glob("*.txt"))]
    if not names:
        raise SourceError(f"No lists such as train.txt and val.txt in '{lists}'")
    pairs, problems, without = [], [], 0
    for split in names:
        for stem in list_of_stems(lists / f"{split}.txt"):
            try:
                masks = [root / "SegmentationClass" / f"{stem}.png"]
                if split == "test" and not masks[0].exists():
                    without += 1
                    continue
                image = _voc_image(root, images, stem)
                pairs.append(Pair(image, (inside(root, f"SegmentationClass/{stem}.png"),), split=split))
            except SourceError as error:
                problems.append(str(error))
    return pairs, problems, without


def _voc_image(root: Path, images: Images, stem: str) -> Path:
    endings = (".jpg", ".jpeg", ".png")
    if images.root == root:
        there = [ending for ending in endings if (root / "JPEGImages" / f"{stem}{ending}").exists()]
        return inside(root, f"JPEGImages/{stem}{(there or endings)[0]}")
    for ending in endings:
        with contextlib.suppress(MissingImageError):
            return images.find(f"{stem}{ending}")
    raise MissingImageError(f"No image '{stem}{endings[0]}', nor one that ends in .jpeg or .png, in '{images.root}'")


def list_of_stems(file: Path) -> list[str]:
    """The first word of each line of a list of images."""
    return [line.split()[0] for line in read_text(file, 1 << 28).splitlines() if line.split()]
