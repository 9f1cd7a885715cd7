"""Data sets by the name of their layout."""

from pathlib import Path

from .camvid import CamVid
from .dataset import SegmentationDataset

DATASETS = {"camvid": CamVid}
"""Layouts by name; each is called with the folder and the split."""


def open_dataset(name: str, root: str | Path, split: str) -> SegmentationDataset:
    """One split of a data set.

    Raises:
        ValueError: If the layout or the split is unknown.
        FileNotFoundError: If a folder or file is missing, or the split is empty.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset is '{name}'; it can be {', '.join(DATASETS)}")
    return DATASETS[name](root, split)
