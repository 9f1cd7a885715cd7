"""Contents and errors of a dataset."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..meta import Preprocess
from .dataset import SegmentationDataset
from .images import has_deep_channels, read_image
from .labels import IGNORE, Labels
from .open import find_layout
from .pairs import Pairs, read_pair


@dataclass
class SplitContents:
    """Contents of the readable images of a split."""

    labels: Labels
    images: int
    """Number of images, readable or not."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of images of each (width, height)."""
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(IGNORE + 1, np.int64))
    """(256,) int64: the number of pixels of each class id; of 255, the ignored ones. Of multi-label, 255 are those of any class."""
    counted: np.ndarray = field(default_factory=lambda: np.zeros(IGNORE + 1, np.int64))
    """(256,) int64: the number of pixels of which it is known whether they are of the class id."""
    depth: str | None = None
    """A doubt whether images of 16 bits a channel are meant to be read as 8; None for no doubt."""

    def add(self, mask: np.ndarray) -> None:
        """Count the pixels of a mask, (H, W) or (classes, H, W)."""
        pixels, counted = count_pixels(mask)
        self.pixels += pixels
        self.counted += counted

    @property
    def class_fractions(self) -> dict[str, float] | None:
        """The fraction of the pixels that count, 0 to 1, of each class; None if no pixel counts."""
        counts, counted = self.pixels[: len(self.labels)], self.counted[: len(self.labels)]
        if not counted.any():
            return None
        return dict(zip(self.labels.names, (counts / counted.clip(1)).tolist(), strict=True))

    @property
    def ignored(self) -> float:
        """The fraction of all pixels, 0 to 1."""
        ignored, counted = self.pixels[IGNORE], self.counted
        known = counted[: len(self.labels)].sum() if self.labels.multilabel else counted[0]
        return float(ignored / max(ignored + known, 1))


def count_pixels(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of `SplitContents.pixels` and `SplitContents.counted` of a mask, (H, W) or (classes, H, W)."""
    if mask.ndim == 2:
        pixels = np.bincount(mask.ravel(), minlength=IGNORE + 1)
        return pixels, np.full(IGNORE + 1, pixels[:IGNORE].sum())
    pixels, counted = np.zeros((2, IGNORE + 1), np.int64)
    pixels[: len(mask)], counted[: len(mask)] = (mask == 1).sum((1, 2)), (mask != IGNORE).sum((1, 2))
    pixels[IGNORE] = mask.size - counted.sum()
    return pixels, counted


def check_dataset(
    name: str, root: Path, split: str | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, SplitContents], list[str]]:
    """Read every image and mask.

    Args:
        name: Name of the layout.
        root: Folder of the dataset.
        split: None for every split that is there.
        progress: Called with the number of images read and their total.

    Returns:
        The contents of each split that has images, and a line for each problem; it names the file.

    Raises:
        ValueError: If the layout is unknown.
        FileNotFoundError: If there is no split.
    """
    layout, problems = find_layout(name), []
    splits = layout.splits(root) if split is None else (split,)
    if not splits:
        layout.find(root, "train")  # its error tells where images and masks are looked for
        raise FileNotFoundError(f"No split of the layout '{name}' in '{root}'")
    found: dict[str, Pairs] = {}
    for each in splits:
        try:
            found[each] = layout.find(root, each)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    contents = {s: SplitContents(p.labels, len(p.images)) for s, p in found.items()}
    done, total = 0, sum(c.images for c in contents.values())
    for each, pairs in found.items():
        contents[each].depth = _only_upper_bits(pairs.images, pairs.preprocess)
        for index, image_file in enumerate(pairs.images):
            try:
                if pairs.masks:
                    image, mask = read_pair(image_file, pairs.masks[index], pairs.labels, pairs.ids, pairs.preprocess)
                    contents[each].add(mask)
                else:
                    image = read_image(image_file)
                contents[each].sizes[image.shape[1], image.shape[0]] += 1
            except (ValueError, OSError) as error:
                problems.append(str(error))
            except MemoryError:
                problems.append(f"'{image_file}' needs more memory than there is; cut it into parts")
            done += 1
            if progress:
                progress(done, total)
    return contents, list(dict.fromkeys(problems))  # a fault of classes.txt is found for each split


def doubts(contents: dict[str, SplitContents], split: str | None = None, *, complete: bool = True) -> list[str]:
    """Warnings of contents that are allowed and seldom meant: a line each.

    Args:
        contents: From `check_dataset`.
        split: The only one that was read; None for every split that is there.
        complete: Whether there was no problem; a split with one may be there and be missing in `contents`.
    """
    found = []
    if split is None and complete and "train" in contents and "val" not in contents:
        found.append("There is no val split to evaluate on; make one, or train with --evaluate-every 0")
    found += [each.depth for each in contents.values() if each.depth][:1]
    counted = [each for each in contents.values() if (each.pixels + each.counted).any()]
    if counted:
        labels, pixels = counted[0].labels, sum((each.pixels for each in counted), np.zeros(IGNORE + 1, np.int64))
        found += filter(None, [_only_ignored_beside_the_first(labels, pixels) or _missing(labels.names, pixels)])
    return found


def mask_doubts(dataset: SegmentationDataset, most: int = 64) -> tuple[str | None, list[str]]:
    """Errors and warnings that a few masks of a dataset show, before training.

    Args:
        dataset: Its masks are read, spread evenly over it, and of its images only the header of the first.
        most: Number of masks that are read, unless they are such that only all can tell.

    Returns:
        Why the masks cannot be meant so, or None; and a line for each doubt, of the first image too.

    Raises:
        ImageError: If a mask cannot be read.
    """
    pixels = np.zeros(IGNORE + 1, np.int64)
    chosen = sorted({round(i) for i in np.linspace(0, len(dataset) - 1, min(most, len(dataset)))})
    for index in chosen:
        pixels += count_pixels(dataset.mask(index).numpy())[0]
    error = _only_ignored_beside_the_first(dataset.labels, pixels)
    for index in sorted(set(range(len(dataset))) - set(chosen)):  # a class may be rare, or the masks few among images without
        if not error:
            break
        pixels += count_pixels(dataset.mask(index).numpy())[0]
        error = _only_ignored_beside_the_first(dataset.labels, pixels)
    missing = _missing(dataset.labels.names, pixels) if len(chosen) == len(dataset) else None
    depth = _only_upper_bits(dataset.images, getattr(dataset, "preprocess", None))
    return error, [doubt for doubt in (depth, missing) if doubt and not error]


def _only_upper_bits(images: Sequence[Path], preprocess: Preprocess | None) -> str | None:
    """A doubt of images of 16 bits, as the first one tells, that are read as 8-bit RGB."""
    if preprocess is not None or not images or not has_deep_channels(images[0]):
        return None
    return (
        f"'{images[0]}' has 16 bits a channel, of which the upper 8 are read. To train on its own values, run "
        "pspnet-zoo data stats DIR --write first"
    )


def _only_ignored_beside_the_first(labels: Labels, pixels: np.ndarray) -> str | None:
    names = labels.names
    if labels.multilabel or not (pixels[0] and pixels[IGNORE] and pixels.sum() == pixels[0] + pixels[IGNORE] and len(names) > 1):
        return None
    return f"The masks hold nothing but 0, which is '{names[0]}', and 255, which is ignored. If 255 is '{names[1]}', write 1"


def _missing(names: Sequence[str], pixels: np.ndarray) -> str | None:
    missing = [repr(name) for name, count in zip(names, pixels, strict=False) if not count]
    return f"No pixel is of {', '.join(missing)}" if missing else None
