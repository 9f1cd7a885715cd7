"""Which format a source has, and its reader."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .masks import find_pairs, read_masks, read_voc
from .outlines import annotation_files, is_coco, is_labelme, is_yolo, read_coco, read_labelme, read_yolo
from .sample import Images, Source, SourceError, read_json, walk
from .tables import read_npz, read_parquet
from .tools import is_label_studio, read_cvat, read_label_studio
from .values import MaskOptions
from .vectors import SUFFIXES, read_vectors

FORMATS = (
    "coco",
    "yolo",
    "labelme",
    "cvat",
    "labelstudio",
    "voc",
    "masks",
    "colors",
    "binary",
    "ids",
    "instances",
    "npz",
    "parquet",
    "vectors",
)
"""Names of the formats. "masks" finds out itself which of the next four the masks have."""
_MASKS = FORMATS[6:11]


@dataclass(frozen=True)
class Guess:
    """A format that a source seems to have."""

    format: str
    images: float
    """Number of images with labels; infinite where a format has signs of its own."""


_OUTLINES = ("coco", "yolo", "labelme", "cvat", "labelstudio")
_STATED = {
    **dict.fromkeys(_OUTLINES, ("--images",)),
    **dict.fromkeys(_MASKS, ("--images", "--colors", "--names", "--masks")),
    **dict.fromkeys(("npz", "parquet"), ("--colors", "--names")),
    "voc": ("--images", "--colors"),
    "vectors": ("--images", "--class-field"),
}
"""The options that each format reads."""


def read_source(root: Path, kind: str | None, *, images: Path | None = None, masks: MaskOptions | None = None) -> Source:
    """Read the labels of a source.

    Args:
        root: A folder or a file.
        kind: One of `FORMATS`; None to find it out, which is noted.
        images: Folder of the images; None for the source's.
        masks: What is stated of masks; None for nothing.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the format cannot be told or is not that of the source.
        ImportError: If a library is not installed.
    """
    for path in (root, images):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"No file or folder '{path}'")
    masks = masks or MaskOptions()
    notes = []
    if kind is None:
        kind, notes = ("masks", []) if masks.pattern else _choose(root, images)
    elif kind not in FORMATS:
        raise ValueError(f"format is '{kind}'; it can be {', '.join(FORMATS)}")
    stated = {"--colors": masks.colors, "--names": masks.names, "--masks": masks.pattern, "--class-field": masks.field}
    stated["--images"] = images
    if idle := [option for option, value in stated.items() if value and option not in _STATED[kind]]:
        raise ValueError(f"{idle[0]} says nothing of the labels in '{root}', which are {kind}; leave it out")
    found, masks = _images(root, images), replace(masks, kind=kind if kind in _MASKS[1:] else None)
    source = _READERS[kind](root, found, masks)
    if found.overruled:
        source = _READERS[kind](root, found, masks)
    if not source.samples:
        reason = source.problems[0] if source.problems else f"'{root}' has no images with labels"
        elsewhere = ". If its images are in another folder, name that by --images"
        raise SourceError(reason + elsewhere * (kind in _OUTLINES and not images))
    source.notes[:0] = notes
    return source


def _choose(root: Path, images: Path | None) -> tuple[str, list[str]]:
    guesses = sorted(guess_formats(root, images), key=lambda guess: -guess.images)
    if not guesses:
        raise SourceError(
            f"'{root}' has no known format. Choose one with --format: {', '.join(FORMATS)}; or state where masks are, as in "
            "--masks 'labels/{stem}.png'"
        )
    others = "".join(f"; it also looks like {guess.format}" for guess in guesses[1:])
    return guesses[0].format, [f"Format: {guesses[0].format}{others} (--format)"]


def guess_formats(root: Path, images: Path | None = None) -> list[Guess]:
    """The formats that a source seems to have."""
    sure = float("inf")
    if root.is_file():
        by_ending = {".xml": "cvat", ".yaml": "yolo", ".yml": "yolo", ".npz": "npz", ".parquet": "parquet"}
        by_ending |= dict.fromkeys(SUFFIXES, "vectors")
        if (ending := root.suffix.lower()) in by_ending:
            return [Guess(by_ending[ending], sure)]
        return [guess for guess in [_json_format(root, only=True)] if guess]
    found = []
    if (root / "SegmentationClass").is_dir() and (root / "ImageSets").is_dir():
        found.append(Guess("voc", sure))
    if is_yolo(root):
        found.append(Guess("yolo", sure))
    if (root / "annotations.xml").is_file():
        found.append(Guess("cvat", sure))
    if files := annotation_files(root):
        found.append(Guess("coco", sum(len(read_json(file)["images"]) for file in files)))
    else:
        files = list(walk(root, [".json"]))
        guess = next(filter(None, (_json_format(file, only=len(files) == 1) for file in files[:5])), None)
        found += [Guess(guess.format, len(files) if guess.format == "labelme" else guess.images)] if guess else []
    found += [Guess("vectors", sure)] if next(walk(root, SUFFIXES), None) else []
    found += [Guess(name, sure) for name in ("npz", "parquet") if next(walk(root, [f".{name}"]), None)]
    with contextlib.suppress(SourceError):
        found.append(Guess("masks", len(find_pairs(root, _images(root, images), None)[0])))
    return found


def _json_format(file: Path, *, only: bool) -> Guess | None:
    """The format of a JSON file; one that is broken is no sign, but where it is the only one it is an error."""
    try:
        values = read_json(file)
    except SourceError:
        if only:
            raise
        return None
    if is_coco(values):
        return Guess("coco", len(values["images"]))
    if is_label_studio(values):
        return Guess("labelstudio", len(values))
    return Guess("labelme", 1) if is_labelme(values) else None


def _images(root: Path, images: Path | None) -> Images:
    """The folders in which images are looked for: in the source's folder, and beside `annotations/` for a file in it."""
    folder = root if root.is_dir() else root.parent
    if root.is_file() and folder.name.lower() == "annotations":
        folder = folder.parent
    return Images(images or folder)


def _file(root: Path, pattern: str, kind: str) -> Path:
    """The source itself, or its file of this name or ending."""
    files = [root] if root.is_file() else sorted(root.glob(pattern))
    if len(files) != 1:
        raise SourceError(f"'{root}' has {len(files)} files {pattern}; name the one of {kind} itself")
    return files[0]


_Reader = Callable[[Path, Images, MaskOptions], Source]
_READERS: dict[str, _Reader] = {
    "coco": lambda root, images, _: read_coco(root, images),
    "yolo": lambda root, images, _: read_yolo(root, images),
    "labelme": lambda root, images, _: read_labelme(root, images),
    "cvat": lambda root, images, _: read_cvat(_file(root, "*.xml", "CVAT"), images),
    "labelstudio": lambda root, images, _: read_label_studio(_file(root, "*.json", "Label Studio"), images),
    "voc": read_voc,
    **dict.fromkeys(_MASKS, read_masks),
    "npz": lambda root, _, masks: read_npz(root, masks),
    "parquet": lambda root, _, masks: read_parquet(root, masks),
    "vectors": read_vectors,
}
