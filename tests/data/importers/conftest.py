"""Sources in the formats of other tools, with known masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.importers.recognise import read_source
from pspnet_zoo.data.importers.values import MaskOptions
from pspnet_zoo.data.importers.write import WriteOptions, resolve_classes, write_dataset

POLYGONS = {
    "a": [("cat", [(4, 3), (30, 5), (22, 30)]), ("dog", [(30, 20), (60, 20), (60, 40), (30, 40)])],
    "b": [("dog", [(10.5, 8.25), (40, 12), (50, 44), (20, 30)])],
    "c": [],
}
"""Objects of three images of 64x48 that do not overlap."""


def write_images(folder: Path, names="abc", size=(64, 48)) -> dict[str, bytes]:
    """Images of noise, and their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    random, files = np.random.default_rng(0), {}
    for name in names:
        file = folder / f"{name}.jpg"
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(file)
        files[name] = file.read_bytes()
    return files


def true_masks() -> dict[str, np.ndarray]:
    """(48, 64) ids of three images: 0 background, 1 cat, 2 dog, in blocks with thin parts."""
    masks = {name: np.zeros((48, 64), np.uint8) for name in "abc"}
    masks["a"][5:20, 3:30] = 1
    masks["a"][10, 12:20] = 0
    masks["a"][30:47, 40:] = 2
    masks["b"][:, 31] = 2
    masks["b"][0, 0] = masks["b"][47, 63] = 1
    return masks


def write_masks(folder: Path, masks: dict[str, np.ndarray], suffix="") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        Image.fromarray(mask).save(folder / f"{name}{suffix}.png")


class Import:
    """A source after its import."""

    def __init__(
        self,
        source: Path,
        output: Path,
        kind=None,
        *,
        images=None,
        masks=None,
        chosen=None,
        background=None,
        ignore_undrawn=False,
        **options,
    ) -> None:
        read = read_source(source, kind, images=images, masks=masks or MaskOptions())
        classes, table = resolve_classes(read, chosen, background, ignore_undrawn)
        self.format = read.format
        self.written = write_dataset(read, output, classes, table, WriteOptions(**options))
        self.problems, self.notes = self.written.problems, self.written.notes
        self.names = tuple(json.loads(next(output.rglob("classes.json")).read_text("utf-8"))["names"])
        self.masks = {}
        for file in output.rglob("masks/*.png"):
            with Image.open(file) as mask:
                self.masks[file.stem] = np.array(mask)
        self.images = {file.stem: file.read_bytes() for file in output.rglob("images/*")}
        self.splits = {file.stem: file.parent.parent.name for file in output.rglob("masks/*.png")}

    def named(self, name: str) -> np.ndarray:
        """(H, W) names of an image's pixels, "-" where ignored."""
        return np.array([*self.names, *["-"] * (256 - len(self.names))])[self.masks[name]]


@pytest.fixture
def imported(tmp_path):
    def run(source, kind=None, **options) -> Import:
        return Import(source, tmp_path / "imported", kind, **options)

    return run


def same_within_a_pixel(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether each of two masks lies in the other grown by a pixel."""

    def grown(mask):
        padded = np.pad(mask, 1)
        return np.any([padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)], axis=0)

    return not ((one & ~grown(other)) | (other & ~grown(one))).any()
