"""The interface of datasets, and any torch dataset of images and masks behind it, with each item checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision import tv_tensors

from ..meta import IGNORE, Labels, Preprocess
from .images import to_rgb
from .rasters import Region


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
        """(3, H, W) uint8 RGB and (H, W) uint8 class ids, 255 where ignored; or (classes, H, W) of 0, 1 and 255 of multi-label."""
        ...

    def mask(self, index: int) -> tv_tensors.Mask:
        """The second of an item, without reading the image."""
        ...


class CheckedDataset(Dataset):
    """A dataset with `__len__` and `__getitem__`, as training and evaluation read it.

    Args:
        dataset: Its items are (image, mask) or {"image": ..., "mask": ...}, as albumentations gives them. An image is a uint8
            tensor (C, H, W), a uint8 array (H, W, C) or a PIL image; a mask is (H, W) or (1, H, W) class ids, 255 where ignored.
            Where the labels are `multilabel`, it is (classes, H, W), 1 or True where a pixel is of the class, 255 where ignored.
            Where the dataset has a `preprocess`, images are of any type and as many channels as it states. A
            `torch.utils.data.Subset` has the labels and file names of the dataset that it is a part of.
        labels: Used where the dataset has none.
        channels: Number of channels of an image.

    Raises:
        ValueError: If there are no labels; on reading an item, if it is something else than the above. The message names the item.
    """

    def __init__(self, dataset: Any, *, labels: Labels | None = None, channels: int = 3) -> None:
        self.dataset = dataset
        base: Any = dataset
        chosen: Sequence[int] = range(len(dataset))
        while isinstance(base, Subset):
            base, chosen = base.dataset, [base.indices[i] for i in chosen]
        self._base, self._chosen = base, chosen
        found = getattr(base, "labels", labels)
        if not isinstance(found, Labels):
            raise ValueError(
                "The dataset has no labels, so its class ids have no names; set net.labels = pspnet_zoo.Labels([...]), with a name "
                "for each id"
            )
        self.labels = found
        self.preprocess: Preprocess | None = getattr(base, "preprocess", None)
        """Preprocessing of images that are not 8-bit RGB."""
        self.ids: Mapping[int, int] | None = getattr(base, "ids", None)
        """The class id, 255 if ignored, of each id that the files of masks may hold; None where that is not known."""
        self.channels = len(self.preprocess.mean) if self.preprocess else channels
        self.images: Sequence[Path] = self._files("images", [Path(f"item {i}") for i in chosen])
        """The file of each image, or its number in the dataset where that does not tell files."""
        self.masks: Sequence[Path] = self._files("masks", self.images)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """(C, H, W), uint8 unless the dataset has a `preprocess`; and (H, W) uint8 class ids, or (classes, H, W) of multi-label."""
        try:
            item = self.dataset[index]
        except StopIteration:  # a loader would take it for the end of the run
            raise ValueError(
                f"{self._name(index)}: reading the item raised StopIteration; look at the dataset's __getitem__"
            ) from None
        image, mask = _pair(item, self.images[index])
        image, mask = self._image(image, index), self._ids(mask, index)
        if image.shape[-2:] != mask.shape[-2:]:
            raise ValueError(
                f"{self._name(index)}: the image is {image.shape[-1]}x{image.shape[-2]} pixels and the mask "
                f"{mask.shape[-1]}x{mask.shape[-2]}; they must be of one size"
            )
        return image, mask

    def window_size(self, index: int) -> tuple[int, int] | None:
        """Height and width of an image whose regions the dataset reads by a method `window`; None for others."""
        size = getattr(self._base, "window_size", None)
        return size(self._chosen[index]) if size else None

    def window(self, index: int, region: Region) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """A region of an item, see `window_size`."""
        image, mask = self._base.window(self._chosen[index], region)
        return self._image(image, index), self._ids(mask, index)

    def mask(self, index: int) -> tv_tensors.Mask:
        """The second of an item; a dataset with a method `mask` reads no image for it."""
        read = getattr(self._base, "mask", None)
        return self._ids(read(self._chosen[index]), index) if read else self[index][1]

    def _files(self, attribute: str, default: Sequence[Path]) -> Sequence[Path]:
        files = getattr(self._base, attribute, None)
        if files is None:
            return default
        return [files[i] for i in self._chosen] if len(files) == len(self._base) else files  # images without masks

    def _image(self, image: Any, index: int) -> tv_tensors.Image:
        if isinstance(image, Image.Image):
            image = torch.from_numpy(to_rgb(image)).permute(2, 0, 1)
        elif isinstance(image, np.ndarray):
            image = torch.from_numpy(image).permute(2, 0, 1) if image.ndim == 3 else torch.from_numpy(image)
        if not isinstance(image, Tensor) or (image.dtype != torch.uint8 and self.preprocess is None):
            kind = getattr(image, "dtype", type(image).__name__)
            raise ValueError(
                f"{self._name(index)}: the image is of type {kind}; it must be uint8, 0 to 255, not yet normalised: the network's "
                "preprocessing does that"
            )
        if image.ndim != 3 or image.shape[0] != self.channels:
            raise ValueError(f"{self._name(index)}: the image is {tuple(image.shape)}; it must be ({self.channels}, H, W)")
        return tv_tensors.Image(image)

    def _ids(self, mask: Any, index: int) -> tv_tensors.Mask:
        ids = torch.as_tensor(np.array(mask) if isinstance(mask, Image.Image) else mask)
        if ids.dtype in (torch.uint16, torch.uint32, torch.uint64):  # which PyTorch does not compare
            ids = ids.to(torch.int64)
        if self.labels.multilabel:
            return self._checked_masks(ids, index)
        if ids.ndim == 3 and ids.shape[0] == 1:
            ids = ids[0]
        if ids.ndim != 2 or ids.is_floating_point():
            raise ValueError(f"{self._name(index)}: the mask is {tuple(ids.shape)} of {ids.dtype}; it must be (H, W) class ids")
        unknown = (ids != IGNORE) & ((ids < 0) | (ids >= len(self.labels)))
        if unknown.any():
            raise ValueError(
                f"{self._name(index)}: the mask holds the class ids {ids[unknown].unique().tolist()[:5]}; there are "
                f"{len(self.labels)} classes, 0 to {len(self.labels) - 1}, and {IGNORE} for ignored pixels"
            )
        return tv_tensors.Mask(ids.to(torch.uint8))

    def _checked_masks(self, masks: Tensor, index: int) -> tv_tensors.Mask:
        classes = len(self.labels)
        if masks.ndim != 3 or masks.shape[0] != classes or masks.is_floating_point():
            raise ValueError(
                f"{self._name(index)}: the mask is {tuple(masks.shape)} of {masks.dtype}; of multi-label labels it must be "
                f"({classes}, H, W), 1 where a pixel is of the class"
            )
        if (unknown := masks[(masks != 0) & (masks != 1) & (masks != IGNORE)]).numel():
            raise ValueError(
                f"{self._name(index)}: the mask holds the values {unknown.unique().tolist()[:5]}; multi-label masks hold 0, 1 for "
                f"the class, and {IGNORE} for ignored pixels"
            )
        return tv_tensors.Mask(masks.to(torch.uint8))

    def _name(self, index: int) -> str:
        return f"'{self.images[index]}'"


def _pair(item: Any, name: Path) -> tuple[Any, Any]:
    if isinstance(item, Mapping) and {"image", "mask"} <= item.keys():
        return item["image"], item["mask"]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    raise ValueError(f"""'{name}' is a {type(item).__name__}; an item must be (image, mask) or {{"image": ..., "mask": ...}}""")


def as_segmentation_dataset(dataset: Any, labels: Labels | None = None, *, channels: int = 3) -> CheckedDataset:
    """The dataset itself if it is checked already; else see `CheckedDataset`."""
    return dataset if isinstance(dataset, CheckedDataset) else CheckedDataset(dataset, labels=labels, channels=channels)
