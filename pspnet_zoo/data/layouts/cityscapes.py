"""Cityscapes in its official layout: 2975 / 500 / 1525 street frames with 19 classes at 2048x1024, and 19998 with coarse masks.

Source: Cordts et al. 2016, "The Cityscapes Dataset for Semantic Urban Scene Understanding"; layout and ids of cityscapesScripts.
Terms: non-commercial; images may not be passed on.

The folder has `leftImg8bit/` and `gtFine/` or `gtCoarse/`. Splits are "train", "val", "test", and "train_extra" with coarse masks.
Masks are the `*_labelTrainIds.png` where every image of the split has one, otherwise the `*_labelIds.png`,
translated to trainIds; the other labelIds, and 255, are ignored. "test" has no ground truth: its images have no masks.
"""

from pathlib import Path

from ..labels import CITYSCAPES, IGNORE
from ..pairs import Pairs

SPLITS = {
    "train": "gtFine",
    "val": "gtFine",
    "test": None,  # its labelIds are placeholders without a class: the ground truth stays with the evaluation server
    "train_extra": "gtCoarse",
}
"""The folder of each split's ground truth."""

_IMAGE = "_leftImg8bit.png"
_TRAIN_IDS = {i: i for i in (*range(len(CITYSCAPES)), IGNORE)}
# 255 is what -1, the license plate, becomes in 8 bits; cityscapesScripts' own json2labelImg does not draw it
_LABEL_IDS = {**dict.fromkeys((*range(34), 255), IGNORE), **{label: i for i, label in enumerate(CITYSCAPES.official_ids)}}


# torchvision.datasets.Cityscapes is not used: it unpacks archives into the folder unasked, takes any file for an image, leaves the
# order to the file system, does not look whether masks exist, and knows no trainIds.
def splits(root: Path) -> tuple[str, ...]:
    """Those whose images have a folder."""
    return tuple(s for s in SPLITS if (root / "leftImg8bit" / s).is_dir())


def find(root: Path, split: str) -> Pairs:
    """Images by city and name."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; Cityscapes has {', '.join(SPLITS)}")
    folder = root / "leftImg8bit" / split
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder '{folder}'")
    images = tuple(sorted(p for p in folder.glob(f"*/*{_IMAGE}") if not p.name.startswith(".")))
    if not images:
        raise FileNotFoundError(f"No images in '{folder}', named CITY/*{_IMAGE}")
    annotations = SPLITS[split]
    if annotations is None:
        return Pairs(images, (), CITYSCAPES, {})
    stems = [root / annotations / split / p.parent.name / f"{p.name.removesuffix(_IMAGE)}_{annotations}" for p in images]
    masks = tuple(p.with_name(f"{p.name}_labelTrainIds.png") for p in stems)
    if all(p.is_file() for p in masks):
        return Pairs(images, masks, CITYSCAPES, _TRAIN_IDS)
    return Pairs(images, tuple(p.with_name(f"{p.name}_labelIds.png") for p in stems), CITYSCAPES, _LABEL_IDS)
