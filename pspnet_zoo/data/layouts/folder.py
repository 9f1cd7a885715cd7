"""The layout "folder", for your own data: a folder with `classes.txt` or `classes.json`, and images and masks.

With `SPLIT/images/` and `SPLIT/masks/`, the splits are those folders. Where the folder holds `images/` and `masks/` itself, every
fifth image by name, from the first on, is "val", and the others are "train". A mask is a PNG, or a TIFF, with its image's stem; 255
is ignored. Where `classes.json` has `"multilabel": true`, a pixel may be of several classes, and a mask is a TIFF with a page a
class. Images that are not 8-bit RGB have a `preprocess.json` beside the classes, which `pspnet-zoo data stats DIR --write` makes.
"""

from pathlib import Path

from PIL import Image

from ..labels import Labels
from ..pairs import Pairs, list_images
from ..stats import read_preprocess
from .classes import read_class_file

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
    pairs = Pairs(images, tuple(_mask(masks, p, labels.multilabel) for p in images), labels, ids, read_preprocess(root))
    if colors_given and not labels.multilabel:
        _check_palettes(pairs)
    return pairs


def _mask(folder: Path, image: Path, multilabel: bool) -> Path:
    """A PNG, or a TIFF where there is no PNG; of multi-label always a TIFF."""
    tiff = folder / f"{image.stem}.tif"
    return tiff if multilabel or (tiff.is_file() and not tiff.with_suffix(".png").is_file()) else tiff.with_suffix(".png")


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
        except Exception:  # Pillow fails in every way on damaged files
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
    integers of 0 to 255, "ignore", ids that are ignored like 255, "mapping", the ids in masks of each class, "drop",
    "background" and "multilabel"; see `pspnet_zoo.data.layouts.classes`. Without colours they are `distinct_colors`.

    Raises:
        FileNotFoundError: If there is neither file.
        ValueError: If there are both, or the file does not say that.
    """
    files = [f for f in (root / "classes.txt", root / "classes.json") if f.is_file()]
    if not files:
        raise FileNotFoundError(f"No '{root / 'classes.txt'}', the names of the classes, one a line, nor classes.json")
    if len(files) > 1:
        raise ValueError(f"'{root}' has both classes.txt and classes.json; remove one")
    classes = read_class_file(files[0])
    return classes.labels, classes.ids(), classes.colors_given
