"""Data of one's own: a folder with `classes.txt` or `classes.json`, and images and masks.

With a folder for each split, `SPLIT/images/` and `SPLIT/masks/`, the splits are those folders. Where the folder holds `images/`
and `masks/` itself, every fifth image by name, from the first on, is "val", and the others are "train". A mask is a PNG, or a
TIFF, with its image's stem; 255 is ignored. Images that are not 8-bit RGB have a `preprocess.json` beside the classes, which
`pspnet-zoo data stats DIR --write` makes.
"""

import json
from pathlib import Path
from typing import Any

from ..labels import IGNORE, Labels, distinct_colors
from ..pairs import Pairs, list_images
from ..stats import read_preprocess

_VAL_EVERY = 5


def splits(root: Path) -> tuple[str, ...]:
    """Those that have `images/`, or "train" and "val"."""
    if not root.is_dir():
        raise FileNotFoundError(f"No folder '{root}'")
    if (root / "images").is_dir():
        return "train", "val"
    return tuple(sorted(p.name for p in root.iterdir() if (p / "images").is_dir()))


def find(root: Path, split: str) -> Pairs:
    """The images of a split by name, and their masks."""
    known = splits(root)
    if not known:
        raise FileNotFoundError(f"'{root}' holds neither images/ and masks/, nor folders such as train/ and val/ that do")
    if split not in known:
        raise ValueError(f"split is {split!r}; '{root}' has {', '.join(known)}")
    labels, ids = read_classes(root)
    if (root / "images").is_dir():
        masks, files = root / "masks", list_images(root / "images")
        images = tuple(p for i, p in enumerate(files) if (i % _VAL_EVERY == 0) == (split == "val"))
        if not images:
            raise FileNotFoundError(f"'{root / 'images'}' has one image, and it is in val; nothing is left to train on")
    else:
        masks, images = root / split / "masks", list_images(root / split / "images")
    return Pairs(images, tuple(_mask(masks, p) for p in images), labels, ids, read_preprocess(root))


def _mask(folder: Path, image: Path) -> Path:
    """A PNG, or a TIFF where there is no PNG."""
    tiff = folder / f"{image.stem}.tif"
    return tiff if tiff.is_file() and not tiff.with_suffix(".png").is_file() else tiff.with_suffix(".png")


def read_classes(root: Path) -> tuple[Labels, dict[int, int]]:
    """Labels, and the class id of each id that a mask may hold.

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


def _parse_classes(values: Any) -> tuple[Labels, dict[int, int]]:
    if not isinstance(values, dict) or not {"names"} <= values.keys() <= {"names", "colors", "ignore"}:
        raise ValueError('it must be an object with "names", and if wanted "colors" and "ignore"')
    names, ignore = values["names"], values.get("ignore", IGNORE)
    if not isinstance(names, list) or not 1 <= len(names) <= IGNORE:
        raise ValueError(f'"names" must be a list of 1 to {IGNORE} names')
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or name in names[:number]:
            raise ValueError(f"the name of class {number} is {name!r}; it must be a text of its own, on one line")
    colors = values.get("colors", distinct_colors(len(names)))
    if not isinstance(colors, list | tuple) or not all(isinstance(c, list | tuple) for c in colors):
        raise ValueError('"colors" must be a list of [red, green, blue]')
    if type(ignore) is not int or not len(names) <= ignore <= 255:
        raise ValueError(f'"ignore" is {ignore!r}; it must be an id from {len(names)} to 255, since the classes have those before')
    ids = {**{i: i for i in range(len(names))}, ignore: IGNORE, IGNORE: IGNORE}
    return Labels(tuple(names), tuple(map(tuple, colors))), ids
