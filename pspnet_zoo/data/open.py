"""Data sets by the name of their layout."""

from pathlib import Path

from .camvid import CamVid
from .cityscapes import Cityscapes
from .dataset import SegmentationDataset
from .folder import FolderDataset
from .pairs import PairedFiles

DATASETS: dict[str, type[PairedFiles]] = {"camvid": CamVid, "cityscapes": Cityscapes, "folder": FolderDataset}
"""Layouts by name; each is called with the folder and the split."""


def open_dataset(name: str, root: str | Path, split: str) -> SegmentationDataset:
    """One split of a data set.

    Raises:
        ValueError: If the layout or the split is unknown, or the data set contradicts itself.
        FileNotFoundError: If a folder or file is missing, or the split is empty.
    """
    return find_layout(name)(root, split)


def find_layout(name: str) -> type[PairedFiles]:
    """The class of a layout.

    Raises:
        ValueError: If the layout is unknown.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset is '{name}'; it can be {', '.join(DATASETS)}")
    return DATASETS[name]
