"""A whole dataset read once: what is in it, and what is wrong with it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .images import read_image
from .labels import IGNORE, Labels
from .open import find_layout
from .pairs import Pairs, read_pair


@dataclass
class SplitContents:
    """What the sound images of a split hold."""

    labels: Labels
    images: int
    """All of them, sound or not."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of images of each (width, height)."""
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(IGNORE + 1, np.int64))
    """(256,) int64: the number of pixels of each class id; 255 are the ignored."""

    @property
    def class_fractions(self) -> dict[str, float] | None:
        """The fraction of the pixels that count, 0 to 1, of each class; None if no pixel counts."""
        counts = self.pixels[: len(self.labels)]
        if not counts.any():
            return None
        return dict(zip(self.labels.names, (counts / counts.sum()).tolist(), strict=True))

    @property
    def ignored(self) -> float:
        """The fraction of all pixels, 0 to 1."""
        return float(self.pixels[IGNORE] / max(self.pixels.sum(), 1))


def check_dataset(
    name: str, root: Path, split: str | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, SplitContents], list[str]]:
    """Read every image and mask.

    Args:
        name: Of the layout.
        root: The folder of the dataset.
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
        for index, image_file in enumerate(pairs.images):
            try:
                if pairs.masks:
                    image, mask = read_pair(image_file, pairs.masks[index], pairs.ids, pairs.preprocess)
                    contents[each].pixels += np.bincount(mask.ravel(), minlength=IGNORE + 1)
                else:
                    image = read_image(image_file)
                contents[each].sizes[image.shape[1], image.shape[0]] += 1
            except (ValueError, OSError) as error:
                problems.append(str(error))
            done += 1
            if progress:
                progress(done, total)
    return contents, list(dict.fromkeys(problems))  # a fault of classes.txt is found for each split


def doubts(contents: dict[str, SplitContents], split: str | None = None) -> list[str]:
    """What is allowed, and yet seldom meant: a line each.

    Args:
        contents: From `check_dataset`.
        split: The only one that was looked at; None for every split that is there.
    """
    found = []
    if split is None and "train" in contents and "val" not in contents:
        found.append("There is no val split to evaluate on; make one, or train with --evaluate-every 0")
    counted = [each for each in contents.values() if each.pixels.any()]
    pixels = sum((each.pixels for each in counted), np.zeros(IGNORE + 1, np.int64))
    if not counted:
        return found
    names = counted[0].labels.names
    missing = [name for i, name in enumerate(names) if not pixels[i]]
    if missing and len(missing) == len(names) - 1 and pixels[0] and pixels[IGNORE]:
        found.append(
            f"The masks hold nothing but 0, which is '{names[0]}', and 255, which is ignored. If 255 is '{names[1]}', write 1"
        )
    elif missing:
        found.append(f"No pixel is of {', '.join(repr(name) for name in missing)}")
    return found
