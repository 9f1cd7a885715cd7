"""Datasets by the name of their layout."""

from pathlib import Path
from types import ModuleType

from .dataset import SegmentationDataset
from .layouts import camvid, cityscapes, folder
from .layouts.names import LAYOUTS
from .pairs import PairedFiles

_MODULES = {"camvid": camvid, "cityscapes": cityscapes, "folder": folder}


def open_dataset(name: str, root: str | Path, split: str) -> SegmentationDataset:
    """One split of a dataset.

    Raises:
        ValueError: If the layout or the split is unknown, or the dataset contradicts itself.
        FileNotFoundError: If a folder or file is missing, or the split is empty.
    """
    return PairedFiles(find_layout(name).find(Path(root), split))


def guess_layout(root: str | Path) -> str:
    """The layout whose folders a dataset has; "folder", whose errors say what it needs, where there is no other's sign."""
    if (Path(root) / "leftImg8bit").is_dir():
        return "cityscapes"
    return "camvid" if any(Path(root).glob("*annot")) else "folder"


def find_layout(name: str) -> ModuleType:
    """The module of a layout: `splits(root)` names those that a folder holds, `find(root, split)` gives their files as `Pairs`.

    Raises:
        ValueError: If the layout is unknown.
    """
    if name not in LAYOUTS:
        raise ValueError(f"dataset is '{name}'; it can be {', '.join(LAYOUTS)}")
    return _MODULES[name]
