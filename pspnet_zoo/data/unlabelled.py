"""Images without masks, and several datasets as one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision import tv_tensors

from .dataset import SegmentationDataset
from .images import read_image
from .labels import IGNORE, Labels
from .pairs import list_images
from .rasters import Region


class Unlabelled:
    """The images of a folder, by name; every pixel of their masks is ignored.

    Args:
        folder: Searched for images, not its subfolders.
        labels: What the ids of the dataset that it is used with mean.

    Raises:
        FileNotFoundError: If there is no such folder, or no image in it.
    """

    masks: Sequence[Path] = ()

    def __init__(self, folder: Path, labels: Labels) -> None:
        self.images: Sequence[Path] = list_images(folder, have_masks=False)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """(3, H, W) uint8 RGB, and (H, W) uint8 of 255."""
        image = torch.from_numpy(read_image(self.images[index])).permute(2, 0, 1)
        return tv_tensors.Image(image), tv_tensors.Mask(torch.full(image.shape[-2:], IGNORE, dtype=torch.uint8))

    def mask(self, index: int) -> tv_tensors.Mask:
        """(1, 1) uint8 of 255: nothing counts, whatever the image's size."""
        return tv_tensors.Mask(torch.full((1, 1), IGNORE, dtype=torch.uint8))


class Joined:
    """Datasets with the same labels, one after the other.

    Raises:
        ValueError: If there is none, or their labels differ.
    """

    def __init__(self, parts: Sequence[SegmentationDataset]) -> None:
        if len({part.labels.names for part in parts}) != 1:
            raise ValueError(f"{len(parts)} datasets were given; it takes one or more, with the same classes")
        self.parts = parts
        self.labels = parts[0].labels
        self.images: Sequence[Path] = [image for part in parts for image in part.images]
        self.masks: Sequence[Path] = [mask for part in parts for mask in part.masks]
        self.ids: Any = next((ids for part in parts if (ids := getattr(part, "ids", None))), None)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """The item, or mask, of the dataset that holds it."""
        part, index = self._part(index)
        return part[index]

    def mask(self, index: int) -> tv_tensors.Mask:
        """The item, or mask, of the dataset that holds it."""
        part, index = self._part(index)
        return part.mask(index)

    def window_size(self, index: int) -> tuple[int, int] | None:
        """Height and width of an image whose regions its dataset reads by a method `window`; None for others."""
        part, index = self._part(index)
        size = getattr(part, "window_size", None)
        return size(index) if size else None

    def window(self, index: int, region: Region) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """A region of an item, see `window_size`."""
        part: Any
        part, index = self._part(index)
        return part.window(index, region)

    def _part(self, index: int) -> tuple[SegmentationDataset, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError("The dataset has fewer images")
