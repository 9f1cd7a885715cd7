"""The folder layout, written from samples: classes, splits, masks, and images byte for byte."""

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ...storage.files import new_folder
from ..check import SplitContents
from ..images import SUFFIXES, ImageError, encode_class_masks, read_image
from ..labels import IGNORE, Labels, distinct_colors
from ..layouts.classes import DROPPED, Classes
from ..layouts.splits import assign_splits, names_apart
from ..rasters import Region, open_raster
from .regions import draw, draw_classes, drawing_order
from .sample import Header, Sample, Source, SourceError, image_header
from .values import show_value

_TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), 2))  # of EXIF's orientations 2 to 8
_ENDINGS = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "MPO": ".jpg"}


@dataclass(frozen=True)
class WriteOptions:
    """Options for writing a dataset."""

    priority: str = "last"
    """Which object is on top where several overlap: one of `regions.PRIORITIES`, or names of classes, the uppermost first."""
    link: bool = False
    """Make hard links to images that are files of their own, instead of copies."""
    fractions: tuple[float, float] | None = None
    """Parts of the images for train and val, 0 to 1; None for the source's own splits, or 0.8 and 0.2 where it has none."""
    group_by: str | None = None
    """Regular expression: images whose names match it with the same first group, or the same text, are in one split."""
    lists: Mapping[str, Sequence[str]] | None = None
    """Lines of each split's list, from `splits.read_lists`: the name of an image, alone or with other words behind it."""
    multilabel: bool = False
    """Keep every object where several overlap: a mask a class, see `pspnet_zoo.data.images.encode_class_masks`."""
    folds: int = 0
    """Write this many datasets fold_1, fold_2, ..., each with another part of the images as val."""


@dataclass
class Written:
    """The result of writing a dataset."""

    labels: Labels
    contents: dict[str, SplitContents] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    """Pixels of each class that were drawn and are covered by another class."""


def resolve_classes(
    source: Source, chosen: Classes | None, background: str | None, ignore_undrawn: bool, multilabel: bool = False
) -> tuple[Classes, dict[int, int]]:
    """The classes of the result, and the class id of each category: 255 if ignored, or `DROPPED`.

    Without chosen classes they are the source's categories in their order, behind one for what nobody drew.

    Args:
        source: What was read.
        chosen: From a `classes.json` of the user.
        background: Name of the class of what nobody drew; None for "background", or the source's name for it.
        ignore_undrawn: Ignore it instead.
        multilabel: Whether every object is kept where several overlap; what nobody drew is then of no class.

    Raises:
        ValueError: If a category is nowhere in the chosen classes, there are too many, or options contradict each other.
    """
    categories = source.categories
    if multilabel and (background or ignore_undrawn or any(sample.values for sample in source.samples)):
        raise ValueError(
            "--multilabel keeps objects that overlap, and what nobody drew is of no class; leave out --background and "
            "--ignore-undrawn, and --multilabel where the source has an id for each pixel"
        )
    if chosen is not None:
        if multilabel != chosen.labels.multilabel:
            raise ValueError('--multilabel goes with a --classes file that has "multilabel": true, and only with such a one')
        if background or ignore_undrawn:
            raise ValueError('With --classes, "background" in that file says what becomes of pixels that nobody drew')
        table = {key: chosen.find(each.name, *_number(each.name, key, source)) for key, each in categories.items()}
        if source.undrawn is not None and table[source.undrawn] is None:
            table[source.undrawn] = chosen.undrawn
        if missing := [categories[key].name for key, value in table.items() if value is None]:
            unknown = ", ".join(map(repr, missing))
            numbers = "" if source.has_ids else f". Labels of {source.format} have no ids; write their names"
            raise ValueError(
                f'The classes do not mention {unknown} of the source; add them to "mapping", "ignore" or "drop"{numbers}'
            )
        return chosen, {key: value for key, value in table.items() if value is not None}
    if background and ignore_undrawn:
        raise ValueError("--background names what nobody drew, and --ignore-undrawn ignores it; leave one of them out")
    own = next((key for key, each in categories.items() if each.name == (background or "background")), source.undrawn)
    if ignore_undrawn and any(each.category == own for sample in source.samples for each in sample.objects):
        own = source.undrawn  # a background that somebody drew is a class
    rest = [each for key, each in categories.items() if key != own]
    undrawn = categories[own].name if own is not None else "background"
    undrawn = background or undrawn
    has_undrawn = not multilabel and (own is not None or any(sample.values is None for sample in source.samples))
    if (background or ignore_undrawn) and not has_undrawn:
        option = f"--background {background}" if background else "--ignore-undrawn"
        names = ", ".join(each.name for each in rest[:9])
        raise ValueError(f"{option} is for what nobody drew, and every pixel of the source has a class: {names}; leave it out")
    named = [*([(undrawn, (0, 0, 0))] if has_undrawn and not ignore_undrawn else []), *((each.name, each.color) for each in rest)]
    names = list(dict.fromkeys(name for name, _ in named))
    if not 2 - multilabel <= len(names) <= IGNORE:
        how = "Merge some with --classes" if len(names) > IGNORE else "Keep the background as one"
        first = f". The first problem of the source: {source.problems[0]}" if source.problems else ""
        raise ValueError(f"There are {len(names)} classes ({', '.join(names[:9])}); there can be 2 to {IGNORE}. {how}{first}")
    colors = [color for _, color in named]
    if len(colors) != len(names) or None in colors or len(set(colors)) != len(colors):
        drawn_first = int(has_undrawn and not ignore_undrawn)
        colors = [(0, 0, 0)] * drawn_first + list(distinct_colors(len(names) - drawn_first))
    labels = Labels(tuple(names), tuple(colors), multilabel=multilabel)
    result = Classes(labels, background=undrawn if has_undrawn and not ignore_undrawn else None)
    table = {key: names.index(each.name) for key, each in categories.items() if key != own}
    return result, table if own is None else {**table, own: DROPPED if multilabel else result.undrawn}


def _number(name: str, key: int, source: Source) -> tuple[int, ...]:
    """The id that a file of classes has for a category: the source's, or that which is its name; none for another name."""
    if source.has_ids:
        return (key,)
    return (int(name),) if name.isdecimal() and len(name) < 10 else ()


def write_dataset(
    source: Source,
    output: Path,
    classes: Classes,
    table: Mapping[int, int],
    options: WriteOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write a folder layout that appears whole, under its name, or not at all.

    Args:
        source: Its samples are written, those with a problem left out.
        output: A folder that does not exist, or is empty.
        classes: Of the result.
        table: Class id of each category, from `resolve_classes`.
        options: How.
        progress: Called with the number of samples done and their total.

    Raises:
        FileExistsError: If `output` holds something.
        ValueError: If no image could be imported, or the options do not fit.
        OSError: If the folder cannot be written.
    """
    check_output(output)
    splits, note = assign_splits([s.name for s in source.samples], [s.split for s in source.samples], options)
    result = Written(classes.labels, problems=list(source.problems), notes=[*source.notes, note])
    stems = _short_names(names_apart(source.samples, splits, options.folds))
    with new_folder(output) as folder:
        writer = _Writer(folder, output, source, classes, table, options, result)
        for done, (sample, stem, split) in enumerate(zip(source.samples, stems, splits, strict=True), 1):
            try:
                if split is not None:
                    writer.write(sample, stem, split)
            except (SourceError, ImageError) as error:
                result.problems.append(str(error))
            if progress:
                progress(done, len(source.samples))
        writer.finish()
    return result


def _short_names(names: Sequence[str]) -> list[str]:
    """A name for a file for each name: its last part, or the whole where others have the same last part; with a number if taken."""
    last = Counter(name.rsplit("/", 1)[-1].lower() for name in set(names))
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        short = name.rsplit("/", 1)[-1]
        short = base = short if last[short.lower()] == 1 else name.replace("/", "_")
        number = 1
        while short.lower() in taken:  # cam1/7 and cam1_7
            number += 1
            short = f"{base}_{number}"
        taken.add(short.lower())
        found[name] = short
    return [found[name] for name in names]


def check_output(output: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        FileExistsError: If it does.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"'{output}' is there already and not empty; choose another folder with -o, or remove it")


def _agreed_size(size: tuple[int, ...], sample: Sample, header: Header, what: str) -> tuple[int, int]:
    """The size of labels, which is the image's as it is stored or as EXIF turns it.

    Raises:
        SourceError: If it is neither.
    """
    if size not in (header.size, header.stored_size):
        height, width = header.size
        raise SourceError(f"The image '{sample.name}' is {width}x{height}, and {what} {size[1]}x{size[0]}; they must be equal")
    return size[0], size[1]


def _decode(image: Path | bytes) -> None:
    """Read all pixels of an image, of other bands than RGB too.

    Raises:
        ImageError: If it is damaged.
    """
    try:
        read_image(image if isinstance(image, Path) else io.BytesIO(image))
    except ImageError as error:
        if not isinstance(image, Path) or image.suffix.lower() not in (".tif", ".tiff"):
            raise
        try:
            opened = open_raster(image)
        except ImportError:  # the extra raster is for others
            raise error from None
        with opened as raster:
            _, height, width = raster.shape
            for top in range(0, height, 512):
                raster.read(Region(top, 0, min(512, height - top), width))


_NO_SPLITS = (".", "..", "images", "masks")


class _Writer:
    """Writes samples into a folder, which will have the name `output`."""

    def __init__(
        self,
        folder: Path,
        output: Path,
        source: Source,
        classes: Classes,
        table: Mapping[int, int],
        options: WriteOptions,
        result: Written,
    ) -> None:
        self.folder = folder
        self._output, self._source, self._classes, self._table = output, source, classes, table
        self._options, self._result = options, result
        self._taken: set[tuple[str, str]] = set()
        self._order = drawing_order(options.priority, classes.labels.names, table)

    def write(self, sample: Sample, stem: str, split: str) -> None:
        """Write an image and its mask under a name.

        Raises:
            SourceError: If the sample cannot be imported; nothing of it is written then.
            ImageError: If the image cannot be read.
        """
        if split in _NO_SPLITS:
            raise SourceError(
                f"'{sample.name}' is in the list '{split}', and no folder of a split can be called that; rename the list"
            )
        if (split, stem.lower()) in self._taken:
            raise SourceError(f"Two images have the name '{sample.name}'; the first is kept")
        image = sample.image if isinstance(sample.image, Path) else sample.image()
        header = image_header(image)
        mask = self._mask(sample, header)
        if mask.shape[-2:] != header.size:
            turned = [np.array(Image.fromarray(plane).transpose(_TURNS[header.orientation])) for plane in np.atleast_3d(mask.T).T]
            mask = np.stack(turned) if mask.ndim == 3 else turned[0]
        _decode(image)  # a damaged one would be noticed in training
        ending = image.suffix if isinstance(image, Path) else _ENDINGS.get(header.format, f".{header.format.lower()}")
        if ending.lower() not in SUFFIXES:
            raise SourceError(f"The image '{sample.name}' ends in '{ending}'; it can be {', '.join(sorted(SUFFIXES))}")
        self._taken.add((split, stem.lower()))
        place = self.folder / (f"fold_{split}/val" if self._options.folds else split)
        for name in ("images", "masks"):
            (place / name).mkdir(parents=True, exist_ok=True)
        self._put(image, place / "images" / f"{stem}{ending}")
        if mask.ndim == 3:
            (place / "masks" / f"{stem}.tif").write_bytes(encode_class_masks(mask))
        else:
            Image.fromarray(mask).save(place / "masks" / f"{stem}.png")
        key = f"fold_{split}" if self._options.folds else split
        contents = self._result.contents.setdefault(key, SplitContents(self._classes.labels, 0))
        contents.images += 1
        contents.sizes[header.size[1], header.size[0]] += 1
        contents.add(mask)

    def _put(self, image: Path | bytes, target: Path) -> None:
        if isinstance(image, bytes):
            target.write_bytes(image)
        elif not self._options.link:
            shutil.copyfile(image, target)
        else:
            try:
                os.link(os.path.realpath(image), target)
            except OSError as error:
                raise OSError(f"'{image}' cannot be linked to {self._output} ({error.strerror}); import without --link") from None

    def _mask(self, sample: Sample, header: Header) -> np.ndarray:
        """(H, W) uint8 class ids, of the image as it is stored or as it is turned."""
        if sample.values is not None:
            values = sample.values()
            size = _agreed_size(values.shape, sample, header, "its mask")
            _agreed_size(sample.size or size, sample, header, "the size that the source states")
            return self._translate(values, sample)
        size = _agreed_size(sample.size or header.size, sample, header, "the size that the source states")
        if not self._options.multilabel:
            return self._draw(sample, size)
        mask, problems = draw_classes(sample.objects, size, self._table, len(self._classes.labels))
        self._result.problems += problems
        return mask

    def _translate(self, values: np.ndarray, sample: Sample) -> np.ndarray:
        found, place = np.unique(values, return_inverse=True)
        known = {**self._table, **dict.fromkeys(self._source.ignored, IGNORE)}
        if unknown := [v for v in found.tolist() if v not in known]:
            number = int(np.isin(values, unknown).sum())
            self._result.problems.append(
                f"The mask of '{sample.name}' holds {', '.join(map(show_value, unknown[:5]))}{' and others' * (len(unknown) > 5)}, "
                f"which no class has; these {number:,} pixels are ignored"
            )
        ids = [known.get(v, IGNORE) for v in found.tolist()]
        undrawn = self._classes.undrawn
        return np.array([undrawn if i == DROPPED else i for i in ids], np.uint8)[place].reshape(values.shape)

    def _draw(self, sample: Sample, size: tuple[int, int]) -> np.ndarray:
        height, width = size
        mask = np.full(size, self._classes.undrawn, np.uint8)
        drawn = np.zeros(size, bool)
        for each in self._order(sample.objects, size):
            try:
                box, pixels, doubts = draw(each, height, width)
            except SourceError as error:
                self._result.problems.append(str(error))
                continue
            self._result.problems += doubts
            number = IGNORE if each.category is None else self._table[each.category]
            if number == DROPPED:
                continue
            below, covered = mask[box], pixels & drawn[box]
            for lost, count in enumerate(np.bincount(below[covered & (below != number)], minlength=1).tolist()):
                if count and lost < len(self._classes.labels):
                    self._result.lost[self._classes.labels.names[lost]] += count
            below[pixels] = number
            drawn[box] |= pixels
        return mask

    def finish(self) -> None:
        """Write the classes, and the images of the folds.

        Raises:
            ValueError: If no image was written.
        """
        if not self._result.contents:
            reason = f" The first problem: {self._result.problems[0]}" if self._result.problems else ""
            raise ValueError(f"No image could be imported.{reason}")
        labels = self._classes.labels
        values = {"names": list(labels.names), "colors": [list(c) for c in labels.colors]}
        values |= {"multilabel": True} if labels.multilabel else {}
        if self._classes.background is not None:  # for an import of more labels with this file
            values["background"] = self._classes.background
        text = json.dumps(values, indent=2, ensure_ascii=False)
        for folder in [self.folder / key for key in self._result.contents] if self._options.folds else [self.folder]:
            (folder / "classes.json").write_text(text + "\n", "utf-8")
        if self._options.folds:
            self._link_folds()

    def _link_folds(self) -> None:
        """Give every fold the images of the others as train, as hard links where the disk has them."""
        folds = sorted(self.folder.iterdir())
        for fold in folds:
            for file in [f for other in folds if other != fold for f in other.glob("val/*/*")]:
                target = fold / "train" / file.parent.name / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(file, target)
                except FileExistsError:  # a copy would write into that file, which --link shares with the source
                    raise
                except OSError:
                    shutil.copyfile(file, target)
