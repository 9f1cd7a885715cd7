"""Images and masks that belong together by their names, their tables of colors, and Pascal VOC with its lists."""

import contextlib
import glob
import os
import re
from collections.abc import Mapping, Sequence
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
    check_name,
    contained,
    inside,
    read_json,
    read_text,
    split_of,
    walk,
)
from .values import COLOR, MaskImage, MaskOptions, interpret, pack, scan

_TABLES = ("labelmap.txt", "label_colors.txt", "class_dict.csv", "colors.txt", "colors.csv", "colors.json")
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
            and "{class}" the name of the class. A mask that fits several images is of the longest stem, and of the folder most like
            its own; one in a folder of a name that a folder of images has is of an image in that.

    Raises:
        SourceError: If no pair is found.
    """
    found, left = (_by_pattern if pattern else _by_folders)(root, images, pattern or "")
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
        first = f". The first problem: {left[0]}" if left else ""
        raise SourceError(f"No images and masks in '{root}' belong together {where}{first}")
    return pairs, problems + left


_Found = dict[Path, list[tuple[Path, str | None]]]


def _by_pattern(root: Path, images: Images, pattern: str) -> tuple[_Found, list[str]]:
    """The masks of each image, with their classes; and a line for each mask that is left."""
    if "{stem}" not in pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise SourceError(f"The pattern of masks is '{pattern}'; it must be a path below the source with {{stem}}")
    as_glob = _merge_stars(glob.escape(pattern).replace("[*]", "*").replace("{class}", "*"))
    left = {path for path in root.glob(_merge_stars(as_glob.replace("{stem}", "*"))) if path.is_file()}
    found: _Found = {path: [] for path in walk(images.root) if path not in left}
    folders = {image: _key(image, root if image.is_relative_to(root) else images.root)[:-1] for image in found}
    known = {name for names in folders.values() for name in names}
    claims: dict[Path, dict[Path, str | None]] = {}
    for image in found:
        own = (
            re.escape(pattern).replace(r"\{stem\}", re.escape(image.stem)).replace(r"\*", "[^/]*").replace(r"\{class\}", "([^/]+)")
        )
        for mask in root.glob(as_glob.replace("{stem}", glob.escape(image.stem))):
            path = mask.relative_to(root)
            around = [part for part, stated in zip(path.parts[:-1], Path(pattern).parts, strict=False) if "{" not in stated]
            of_one_split = len({split_of("/".join(around)), images.split(image)} - {None}) < 2
            # a folder that images are in too says whose the mask is, even if its image is missing
            of_one_folder = known & {*around} <= {*folders[image]}
            if of_one_split and of_one_folder and (match := re.fullmatch(own, path.as_posix())):
                claims.setdefault(mask, {})[image] = match[1] if "{class}" in pattern else None
    problems, doubtful = [], set[Path]()
    for mask, classes in sorted(claims.items()):
        chosen = _closest(mask, {image: folders[image] for image in classes}, root)
        if len(chosen) > 1:
            one, other = f"'{chosen[0]}'", f"'{chosen[1]}'"
            problems.append(
                f"'{mask}' fits {one} and {other}, so that neither is imported; name the folder of its image by --images, or "
                "rename one"
            )
            doubtful.update(chosen)
        else:
            found[chosen[0]].append((mask, classes[chosen[0]]))
    for image, masks in found.items():
        own_folder = [_key(mask, root)[:-1] == folders[image] for mask, _ in masks]
        if any(own_folder) and not all(own_folder):
            others = [mask for (mask, _), own in zip(masks, own_folder, strict=True) if not own]
            problems += [f"'{mask}' is left out, since '{image}' has a mask in its own folder" for mask in others]
            found[image] = [one for one, own in zip(masks, own_folder, strict=True) if own]
    found = {image: masks for image, masks in found.items() if image not in doubtful}
    return found, problems + _without_image(left - claims.keys())


def _closest(mask: Path, folders: Mapping[Path, tuple[str, ...]], root: Path) -> list[Path]:
    """The images, of those whose stems fit a mask, with the longest one, in the folder that is most like its own."""
    longest, own = max(len(image.stem) for image in folders), _key(mask, root)[:-1]
    found = [image for image in folders if len(image.stem) == longest]
    found = [image for image in found if not _has(image, root, MASK_FOLDERS)] or found  # others are masks of other images
    if same := [image for image in found if folders[image] == own]:
        return same
    shared = {image: len({*own} & {*each}) for image, each in folders.items()}
    return [image for image in found if shared[image] == max(shared.values())]


def _without_image(masks: set[Path]) -> list[str]:
    return [f"'{mask}' is a mask without an image" for mask in sorted(masks)]


def _merge_stars(pattern: str) -> str:
    """A pattern without "**", which would be any number of folders."""
    return re.sub(r"\*+", "*", pattern)


def _by_folders(root: Path, images: Images, _: str) -> tuple[_Found, list[str]]:
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
    keys = {candidate: _key(candidate, root if candidate.is_relative_to(root) else images.root) for candidate in candidates}
    named = set(keys.values())
    by_key: dict[tuple[str, ...], list[Path]] = {}
    for mask in sorted(masks):
        parts = _key(mask, root)
        by_key.setdefault(parts, []).append(mask)
        if parts not in named and (short := _SUFFIX.sub("", parts[-1])) != parts[-1]:  # a mask is of one image
            by_key.setdefault((*parts[:-1], short), []).append(mask)
    in_folder: dict[tuple[str, ...], list[Path]] = {}
    for mask in sorted(masks):
        in_folder.setdefault(_key(mask, root)[:-1], []).append(mask)
    alone: dict[tuple[str, ...], int] = {}
    by_name = any(by_key.get(key) for key in named)
    for key in keys.values():
        alone[key[:-1]] = alone.get(key[:-1], 0) + 1
    found: _Found = {}
    for candidate, key in keys.items():
        own = (
            by_key.get(key, [])[:1]
            or in_folder.get(key)
            or (in_folder.get(key[:-1], []) if key[:-1] and alone[key[:-1]] == 1 and not by_name else [])
        )
        found[candidate] = [(mask, None) for mask in own]
        masks.difference_update(own)
    return found, _without_image(masks)


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
    splits: dict[str, str] = {}
    for split in names:
        for stem in list_of_stems(lists / f"{split}.txt"):
            try:
                if splits.setdefault(stem, split) != split:
                    raise SourceError(f"'{stem}' is in the lists '{splits[stem]}' and '{split}'; it is imported as of the first")
                masks = [root / "SegmentationClass" / f"{stem}.png"]
                if split == "test" and not os.path.exists(masks[0]):  # unlike Path.exists, False of a name that is too long
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
        there = [ending for ending in endings if os.path.exists(root / "JPEGImages" / f"{stem}{ending}")]
        return inside(root, f"JPEGImages/{stem}{(there or endings)[0]}")
    for ending in endings:
        with contextlib.suppress(MissingImageError):
            return images.find(f"{stem}{ending}")
    raise MissingImageError(f"No image '{stem}{endings[0]}', nor one that ends in .jpeg or .png, in '{images.root}'")


def list_of_stems(file: Path) -> list[str]:
    """The first word of each line of a list of images."""
    return [line.split()[0] for line in read_text(file, 1 << 28).splitlines() if line.split()]


def find_table(root: Path, chosen: Path | None) -> dict[int, Category] | None:
    """The names of colors: those of the chosen file, or of one with a usual name in the source.

    A line is "R G B NAME", "NAME,R,G,B" or CVAT's "NAME:R,G,B:parts:actions"; a JSON file has {"NAME": [R, G, B]}.

    Raises:
        SourceError: If a line says something else, or a color or name is there twice.
    """
    file = chosen or next((root / name for name in _TABLES if (root / name).is_file()), None)
    if file is None:
        return None
    if file.suffix.lower() == ".json":
        values = read_json(file)
        rows = list(values.items()) if isinstance(values, dict) else [(None, None)]
    else:
        rows = [_table_row(line) for line in read_text(file, 1 << 20).splitlines() if line.strip() and not line.startswith("#")]
        rows = rows[1:] if rows and rows[0] is None and len(rows) > 1 else rows  # a heading
    table: dict[int, Category] = {}
    for row in rows:
        name, color = row or (None, None)
        if not isinstance(color, list | tuple) or len(color) != 3 or not all(type(c) is int and 0 <= c < 1 << 16 for c in color):
            raise SourceError(f"'{file}': a line must be R G B NAME, such as '128 64 128 road'")
        name = check_name(name, f"'{file}'")
        if pack(color) in table or any(name == other.name for other in table.values()):
            raise SourceError(f"'{file}': the name '{name}' or its color is there twice")
        red, green, blue = color
        table[pack(color)] = Category(name, (red, green, blue) if max(color) < 256 else None)
    return table


def _table_row(line: str) -> tuple[str, tuple[int, ...]] | None:
    line = line.split("  #")[0].strip()
    first = re.fullmatch(r"(\d{1,5})[\s,;]+(\d{1,5})[\s,;]+(\d{1,5})[\s,;]+(.+)", line)
    last = re.fullmatch(r"(.+?)[\s,;:]+(\d{1,5})[\s,;]+(\d{1,5})[\s,;]+(\d{1,5})(:.*)?", line)
    if first:
        return first[4], tuple(int(first[i]) for i in (1, 2, 3))
    return (last[1], tuple(int(last[i]) for i in (2, 3, 4))) if last else None
