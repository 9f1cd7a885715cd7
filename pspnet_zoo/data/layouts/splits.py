"""The split of each image: the source's own, of lists, or by chance; and names that keep images of several splits apart."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ..images import SUFFIXES
from ..importers.sample import SPLITS, Sample, read_text


class SplitOptions(Protocol):
    """The options of `importers.write.WriteOptions` that say which images are for validation; their meaning is told there."""

    @property
    def lists(self) -> Mapping[str, Sequence[str]] | None: ...
    @property
    def fractions(self) -> tuple[float, float] | None: ...
    @property
    def folds(self) -> int: ...
    @property
    def group_by(self) -> str | None: ...


def read_lists(folder: Path) -> dict[str, list[str]]:
    """The lines of the lists train.txt, val.txt, ... in a folder, by the names of the files, without empty ones.

    Raises:
        FileNotFoundError: If there is no list.
        SourceError: If one cannot be read.
    """
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"No lists such as train.txt and val.txt in '{folder}'")
    return {file.stem: [line.strip() for line in read_text(file, 1 << 28).splitlines() if line.strip()] for file in files}


def assign_splits(names: Sequence[str], own: Sequence[str | None], options: SplitOptions) -> tuple[list[str | None], str]:
    """The split of each image, None for one in no list; and a line that says how they came about.

    Whole groups are assigned, in the order of the SHA-256 of their names, which does not depend on other images.

    Raises:
        ValueError: If the options contradict each other, a name does not match `group_by`, or one is in two lists.
    """
    makers = {"--lists": options.lists is not None, "--folds": options.folds, "--split": options.fractions}
    if len(stated := [option for option, value in makers.items() if value]) > 1:
        raise ValueError(f"{stated[0]} and {stated[1]} both say which images are for validation; leave one out")
    if options.group_by and (options.lists is not None or (any(own) and not stated)):
        raise ValueError(
            f"--group-by is for splits by chance, and {'--lists' if stated else 'the source'} states them; "
            "leave it out, or have others made by --split 0.8 0.2"
        )
    if options.lists is not None:
        listed, note = _listed(options.lists, names)
        found = [listed.get(name, listed.get(name.rsplit("/", 1)[-1])) for name in names]
        if not any(found):
            raise ValueError(
                f"The lists name none of the {len(names)} images, such as '{names[0]}', but '{next(iter(listed), '')}'"
            )
        return found, f"Splits are those of the lists; {found.count(None)} images are in none{note}"
    if any(own) and not (options.fractions or options.folds):
        return [split or "train" for split in own], "Splits are the source's own (--split makes others)"
    groups: dict[str, list[int]] = {}
    try:
        re.compile(options.group_by or "")
    except re.error as error:
        raise ValueError(f"--group-by '{options.group_by}' is not a regular expression: {error}") from None
    for index, name in enumerate(names):
        match = re.search(options.group_by, name) if options.group_by else None
        if options.group_by and match is None:
            raise ValueError(f"--group-by '{options.group_by}' does not match the name '{name}'")
        groups.setdefault(name if match is None else (match[1] if match.re.groups else match[0]), []).append(index)
    order = sorted(groups.values(), key=lambda group: hashlib.sha256(names[group[0]].encode("utf-8", "surrogateescape")).digest())
    of_groups = f", {len(groups)} groups of them whole" if options.group_by else ""
    if options.folds:
        if not 2 <= options.folds <= len(groups):
            raise ValueError(f"--folds is {options.folds}; {len(groups)} images or groups can have 2 to {len(groups)}")
        folds: list[list[int]] = [[] for _ in range(options.folds)]
        for group in order:
            min(folds, key=len).extend(group)
        place = {index: str(number) for number, fold in enumerate(folds, 1) for index in fold}
        return [place[i] for i in range(len(names))], f"{options.folds} folds{of_groups}"
    train, val = options.fractions or (0.8, 0.2)
    if not (0 < train < 1 and 0 < val < 1 and abs(train + val - 1) < 1e-6):
        raise ValueError(f"--split is {train} {val}; it must be two parts of 1, such as 0.8 0.2")
    found: list[str | None] = ["train"] * len(names)
    wanted, taken = max(1, round(val * len(names))), 0
    for group in order[: len(order) - 1]:  # one is left to train on
        if taken < wanted and (taken == 0 or taken + len(group) <= wanted * 1.1 + 1):
            taken += len(group)
            for index in group:
                found[index] = "val"
    parts = f"{1 - taken / len(names):.0%} and {taken / len(names):.0%}"
    return found, f"Every image is in train or val by chance, {parts}{of_groups} (--split)"


def _without_suffix(name: str) -> str:
    """The name of an image in a list, where names may have the ending of the file."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix.lower()}" in SUFFIXES else name


def _listed(lists: Mapping[str, Sequence[str]], names: Sequence[str]) -> tuple[dict[str, str], str]:
    """The split of each name in the lists, and what the note says of lists that are left out.

    A line is the name of an image, or begins with one, which other words may follow, as in Pascal VOC's lists of a class.
    """
    known = {*names, *(name.rsplit("/", 1)[-1] for name in names)}
    both = "trainval" in lists and {"train", "val"} <= lists.keys()  # as in Pascal VOC's folder
    found: dict[str, str] = {}
    for split, lines in lists.items():
        if both and split == "trainval":
            continue
        for line in filter(str.strip, lines):
            whole, first = _without_suffix(line.strip()), _without_suffix(line.split()[0])
            name = first if first in known and whole not in known else whole
            if found.setdefault(name, split) != split:
                raise ValueError(
                    f"'{name}' is in the lists '{found[name]}' and '{split}'; an image is of one split, so remove it from one of "
                    "them, or move the list that holds others' images out of the folder"
                )
    note = "; the list 'trainval' is left out, since 'train' and 'val' are there" if both else ""
    if lost := [name for name in found if name not in known]:
        note += f"; {len(lost)} lines name no image, such as '{lost[0]}'"
    return found, note


def names_apart(samples: Sequence[Sample], splits: Sequence[str | None], folds: int) -> list[str]:
    """The names of samples; where several of one split would have the same, with the folder of the source's split before them.

    Args:
        samples: From `Source.samples`.
        splits: The split of each in the result, or its fold; None for one that is left out.
        folds: Number of folds, which all hold all images; 0 for none.
    """
    places = ["" if folds or split is None else split for split in splits]
    count = Counter((place, sample.name.lower()) for place, sample in zip(places, samples, strict=True))
    return [
        f"{before}/{sample.name}" if count[place, sample.name.lower()] > 1 and (before := _split_folder(sample)) else sample.name
        for place, sample in zip(places, samples, strict=True)
    ]


def _split_folder(sample: Sample) -> str | None:
    """The folder of a split that `Images.name` left out of the name; the split where there is none."""
    folders = reversed(sample.image.parts[:-1]) if isinstance(sample.image, Path) else ()
    return next((part for part in folders if part.lower() in SPLITS), sample.split)
