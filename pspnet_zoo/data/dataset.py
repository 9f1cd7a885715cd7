"""The interface of datasets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torchvision import tv_tensors

from .labels import Labels


class SegmentationDataset(Protocol):
    """Images with a class id for every pixel."""

    @property
    def labels(self) -> Labels:
        """Names and colours of the class ids."""
        ...

    @property
    def images(self) -> Sequence[Path]:
        """The file of each image."""
        ...

    @property
    def masks(self) -> Sequence[Path]:
        """The file of each mask; empty for a split without ground truth, whose items cannot be read."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """(3, H, W) uint8 RGB and (H, W) uint8 class ids, 255 where ignored."""
        ...

    def mask(self, index: int) -> tv_tensors.Mask:
        """The second of an item, without reading the image."""
        ...
