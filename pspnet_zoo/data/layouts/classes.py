"""The file `classes.json`: names, colors, and which classes of a source they stand for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..labels import IGNORE, Labels, distinct_colors

DROPPED = -1
"""Class id of what is taken for not drawn."""
_KEYS = {"names", "colors", "ignore", "mapping", "drop", "background", "multilabel"}
_CATEGORY = int | str


@dataclass(frozen=True)
class Classes:
    """Classes, and the categories of a source, by name or number, that become each of them.

    Raises:
        ValueError: If a class that is named does not exist, or a category becomes two things.
    """

    labels: Labels
    mapping: Mapping[str, tuple[_CATEGORY, ...]] = field(default_factory=dict)
    """Categories of each class, beside the one of its own name."""
    ignore: tuple[_CATEGORY, ...] = ()
    """Categories whose pixels neither train nor count."""
    drop: tuple[_CATEGORY, ...] = ()
    """Categories that are taken for not drawn."""
    background: str | None = None
    """Class of what nobody drew; None to ignore it."""
    colors_given: bool = False
    """Whether the colors come from the file, and stand for the ids in masks."""

    def __post_init__(self) -> None:
        names = self.labels.names
        if unknown := [name for name in (*self.mapping, *filter(None, [self.background])) if name not in names]:
            raise ValueError(f'"mapping" or "background" has {unknown[0]!r}; "names" has {", ".join(names)}')
        if own := [each for key in ("ignore", "drop") for each in getattr(self, key) if each in names]:
            raise ValueError(f'"ignore" is or "drop" has {own[0]!r}, which "names" has too; a category becomes one thing')
        listed = [category for group in (*self.mapping.values(), self.ignore, self.drop) for category in group]
        if twice := [category for category in listed if listed.count(category) > 1]:
            raise ValueError(f'{twice[0]!r} is there twice in "mapping", "ignore" and "drop"; a category becomes one thing')

    @property
    def undrawn(self) -> int:
        """Class id of what nobody drew, or 255."""
        return IGNORE if self.background is None else self.labels.names.index(self.background)

    def find(self, *category: _CATEGORY) -> int | None:
        """The class id of a category by any of its name and numbers; 255 if ignored, `DROPPED`, or None if nothing says it."""
        for name, group in self.mapping.items():
            if any(each in group for each in category):
                return self.labels.names.index(name)
        if any(each in self.ignore for each in category):
            return IGNORE
        if any(each in self.drop for each in category):
            return DROPPED
        return next((self.labels.names.index(each) for each in category if each in self.labels.names), None)

    def ids(self) -> dict[int, int]:
        """The class id of each id that masks of the folder layout may hold, 255 if ignored.

        Ids that "mapping" lists become their classes; without any, an id is that of its class.

        Raises:
            ValueError: If 255, which is ignored in every mask, is to become something else.
        """
        mapped = {each: self.labels.names.index(n) for n, group in self.mapping.items() for each in group if isinstance(each, int)}
        if IGNORE in (*mapped, *self.drop):
            raise ValueError(f'"mapping" or "drop" has {IGNORE}, which is ignored in the masks of a dataset; take another id')
        own = mapped or {i: i for i in range(len(self.labels))}
        ignored = {each: IGNORE for each in self.ignore if isinstance(each, int)}
        return {**own, **{each: self.undrawn for each in self.drop if isinstance(each, int)}, **ignored, IGNORE: IGNORE}


def read_class_file(path: Path) -> Classes:
    """The classes of a JSON file, or of a text with a name on each line.

    Raises:
        ValueError: If the file says something else; the message names it.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".json":
            return parse_classes(json.loads(text))
        return parse_classes({"names": [name.strip() for name in text.rstrip().split("\n")]})
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}': {error}") from None


def parse_classes(values: Any) -> Classes:
    """The classes that a JSON object states.

    Raises:
        ValueError: If it has another form.
    """
    if not isinstance(values, dict) or not {"names"} <= values.keys() <= _KEYS:
        raise ValueError(
            'it must be an object with "names", and if wanted "colors", "ignore", "mapping", "drop", "background" and "multilabel"'
        )
    names, multilabel = values["names"], values.get("multilabel", False)
    if not isinstance(multilabel, bool):
        raise ValueError(f'"multilabel" is {multilabel!r}; it must be true, where a pixel may be of several classes, or false')
    if not isinstance(names, list) or not 1 <= len(names) <= IGNORE:
        raise ValueError(f'"names" must be a list of {1 if multilabel else 2} to {IGNORE} names')
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or name in names[:number]:
            raise ValueError(f"the name of class {number} is {name!r}; it must be a text of its own, on one line")
    if len(names) == 1 and not multilabel:
        raise ValueError(
            f"it names one class, {names[0]!r}, and a network tells at least two apart; name what the other pixels are too, as "
            f"'background' for id 0 and {names[0]!r} for id 1"
        )
    colors = values.get("colors", distinct_colors(len(names)))
    if not isinstance(colors, list | tuple) or not all(isinstance(c, list | tuple) for c in colors):
        raise ValueError('"colors" must be a list of [red, green, blue]')
    mapping = values.get("mapping", {})
    if not isinstance(mapping, dict):
        raise ValueError('"mapping" must be an object such as {"vehicle": ["car", "truck", 7]}')
    mapping = {name: _categories(group, "mapping") for name, group in mapping.items()}
    ignore = values.get("ignore", [])
    ignore = _categories(ignore if isinstance(ignore, list) else [ignore], "ignore")
    by_id = any(isinstance(each, int) for group in mapping.values() for each in group)
    for each in ignore:
        if isinstance(each, int) and not by_id and not len(names) <= each <= 255:
            first = len(names)
            raise ValueError(f'"ignore" is {each!r}; it must be an id from {first} to 255, since the classes have the ids below')
    background = values.get("background")
    if background is not None and not isinstance(background, str):
        raise ValueError(f'"background" is {background!r}; it must be the name of a class')
    if multilabel and (background or by_id or any(isinstance(each, int) and each != IGNORE for each in ignore)):
        raise ValueError(
            'with "multilabel", masks have a page a class, no ids and no background; leave out "background", and ids in "mapping" '
            'and "ignore"'
        )
    labels = Labels(tuple(names), tuple(map(tuple, colors)), multilabel=multilabel)
    given = "colors" in values and not by_id
    return Classes(labels, mapping, ignore, _categories(values.get("drop", []), "drop"), background, given)


def _categories(values: Any, key: str) -> tuple[_CATEGORY, ...]:
    if not isinstance(values, list) or not all(isinstance(v, str) or (type(v) is int and v >= 0) for v in values):
        raise ValueError(f'"{key}" is {values!r}; it must have names and ids of the source, such as ["car", 7]')
    return tuple(values)
