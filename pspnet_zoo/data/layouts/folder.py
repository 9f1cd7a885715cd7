"""The layout "folder", for your own data: a folder with `classes.txt` or `classes.json`, and images and masks.

With `SPLIT/images/` and `SPLIT/masks/`, the splits are those folders. Where the folder holds `images/` and `masks/` itself, every
fifth image by name, from the first on, is "val", and the others are "train". A mask is a PNG, or a TIFF, with its image's stem; 255
is ignored. Images that are not 8-bit RGB have a `preprocess.json` beside the classes, which `pspnet-zoo data stats DIR --write`
makes.
"""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from ..labels import IGNORE, Labels, distinct_colors
from ..pairs import Pairs, list_images
from ..stats import read_preprocess

_VAL_EVERY = 5


def splits(root: Path) -> tuple[str, ...]:
    """The folders that have `images/`; or "train" and "val"."""
    if not root.is_dir():
        raise FileNotFoundError(f"No folder '{root}'")
    if (root / "images").is_dir():
        return "train", "val"
    return tuple(sorted(p.name for p in root.iterdir() if (p / "images").is_dir()))


def find(root: Path, split: str) -> Pairs:
    """The images of a split by name, and their masks."""
    known = splits(root)
    if not known:
        raise FileNotFoundError(
            f"'{root}' holds neither images/ and masks/, nor folders such as train/ and val/ that do. It holds {_contents(root)}"
        )
    if split not in known:
        raise ValueError(f"split is {split!r}; '{root}' has {', '.join(known)}")
    labels, ids, colors_given = read_classes(root)
    if (root / "images").is_dir():
        masks, files = root / "masks", _listed(root / "images")
        images = tuple(p for i, p in enumerate(files) if (i % _VAL_EVERY == 0) == (split == "val"))
        if not images:
            raise FileNotFoundError(f"'{root / 'images'}' has one image, and it is in val; nothing is left to train on")
    else:
        masks, images = root / split / "masks", list_images(root / split / "images")
    pairs = Pairs(images, tuple(_mask(masks, p) for p in images), labels, ids, read_preprocess(root))
    if colors_given:
        _check_palettes(pairs)
    return pairs


def _mask(folder: Path, image: Path) -> Path:
    """A PNG, or a TIFF where there is no PNG."""
    tiff = folder / f"{image.stem}.tif"
    return tiff if tiff.is_file() and not tiff.with_suffix(".png").is_file() else tiff.with_suffix(".png")


def _listed(folder: Path) -> tuple[Path, ...]:
    try:
        return list_images(folder)
    except FileNotFoundError as error:
        if below := sorted(path.name for path in folder.iterdir() if path.is_dir()):
            example = f"{below[0]}/images/ and {below[0]}/masks/"
            raise FileNotFoundError(
                f"{error}, but the folders {', '.join(below)}; a split has folders of its own, as {example}"
            ) from None
        raise


def _contents(root: Path) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    return ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])]) or "nothing"


def _check_palettes(pairs: Pairs, most: int = 64) -> None:
    """Compare the palettes of some masks with the classes' colours, which tells of ids in another order.

    Raises:
        ValueError: If a palette has the colour of one class at the id of another.
    """
    colors, names = pairs.labels.colors, pairs.labels.names
    for path in pairs.masks[:: max(len(pairs.masks) // most, 1)]:
        try:
            with Image.open(path) as mask:  # reads the header only
                palette = mask.getpalette("RGB") if mask.mode == "P" else None
        except OSError:
            continue  # named when it is read
        entries = [tuple((palette or [])[3 * i : 3 * i + 3]) for i in range(len(colors))]
        for index, entry in enumerate(entries):
            if entry != colors[index] and entry in colors:
                raise ValueError(
                    f"The palette of '{path}' has the colour {entry} at id {index}, which is '{names[index]}'; in classes.json "
                    f"it is that of '{names[colors.index(entry)]}'. Put names and colours in the order of the ids in the masks"
                )


def read_classes(root: Path) -> tuple[Labels, dict[int, int], bool]:
    """Labels, the class id of each id that a mask may hold, and whether the colours were given.

    `classes.txt` has the name of a class on each line, id 0 first. `classes.json` has "names", and if wanted "colors", each three
    integers of 0 to 255, and "ignore", an id that is ignored like 255. Without colours they are `distinct_colors`.

    Raises:
        FileNotFoundError: If there is neither file.
        ValueError: If there are both, or the file does not say that.
    """
    files = [f for f in (root / "classes.txt", root / "classes.json") if f.is_file()]
    if not files:
        raise FileNotFoundError(f"No '{root / 'classes.txt'}', the names of the classes, one a line, nor classes.json")
    if len(files) > 1:
        raise ValueError(f"'{root}' has both classes.txt and classes.json; remove one")
    try:
        text = files[0].read_text("utf-8-sig")
        values = json.loads(text) if files[0].suffix == ".json" else {"names": [n.strip() for n in text.rstrip().split("\n")]}
        return _parse_classes(values)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{files[0]}': {error}") from None


def _parse_classes(values: Any) -> tuple[Labels, dict[int, int], bool]:
    if not isinstance(values, dict) or not {"names"} <= values.keys() <= {"names", "colors", "ignore"}:
        raise ValueError('it must be an object with "names", and if wanted "colors" and "ignore"')
    names, ignore = values["names"], values.get("ignore", IGNORE)
    if not isinstance(names, list) or not 1 <= len(names) <= IGNORE:
        raise ValueError(f'"names" must be a list of 2 to {IGNORE} names')
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or name in names[:number]:
            raise ValueError(f"the name of class {number} is {name!r}; it must be a text of its own, on one line")
    if len(names) == 1:
        raise ValueError(
            f"it names one class, {names[0]!r}, and a network tells at least two apart; name what the other pixels are too, as "
            f"'background' for id 0 and {names[0]!r} for id 1"
        )
    colors = values.get("colors", distinct_colors(len(names)))
    if not isinstance(colors, list | tuple) or not all(isinstance(c, list | tuple) for c in colors):
        raise ValueError('"colors" must be a list of [red, green, blue]')
    if type(ignore) is not int or not len(names) <= ignore <= 255:
        raise ValueError(f'"ignore" is {ignore!r}; it must be an id from {len(names)} to 255, since the classes have those before')
    ids = {**{i: i for i in range(len(names))}, ignore: IGNORE, IGNORE: IGNORE}
    return Labels(tuple(names), tuple(map(tuple, colors))), ids, "colors" in values
