"""The augmented images of a run, in their order; both follow from the seed and the position in the run alone."""

import math
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors

from ..data.dataset import SegmentationDataset
from ..data.rasters import Region
from ..inference.scores import size_factor
from ..interrupts import SIGNALS
from ..meta import IGNORE, Preprocess
from ..storage.errors import WeightsError
from .distill import TeacherScores, coordinates, sample
from .recipes import Recipe
from .transforms import training_transform

LARGE = 2**24
"""Pixels from which on an image is read by windows, if its crops are much smaller."""


class Stream(Dataset):
    """Augmented images by their position in the whole run; each epoch is another permutation.

    An item is the image, its mask, its position, and its soft labels, of no class where there is no teacher. With a cache of
    features, the image is 0, and the features follow.
    """

    def __init__(self, dataset: SegmentationDataset, teacher: TeacherScores | None, recipe: Recipe, preprocess: Preprocess) -> None:
        self.dataset, self.teacher = dataset, teacher
        self.blank = torch.zeros(len(preprocess.mean), *recipe.crop, dtype=torch.uint8 if preprocess.white == 255 else torch.float)
        self.seed, self.views = recipe.seed, recipe.views
        self.cache: Any = None
        """Features and masks by index and view, see `pspnet_zoo.training.methods.features.FeatureCache`; None to read images."""
        self.preprocess, self.scale, self.full_size = preprocess, recipe.scale, recipe.full_size
        turned = 1.5 if recipe.rotate else 1.0  # more than the diagonal of a square by its side
        self.reach = [math.ceil(side * turned) for side in recipe.crop]
        self.transform = partial(
            training_transform,
            crop=recipe.crop,
            rotate=recipe.rotate,
            blur=recipe.blur,
            cat_max_ratio=recipe.cat_max_ratio,
            rare_crops=recipe.rare_crops,
            photometric=recipe.photometric,
            mean=preprocess.mean_color,
            std=None if preprocess.is_rgb else preprocess.std_color,
        )

    def index(self, position: int) -> int:
        """The index in the dataset of the image at this position."""
        epoch, place = divmod(position, len(self.dataset))
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(seed_of(self.seed, -1 - epoch)))
        return int(order[place])

    def path(self, position: int) -> Path:
        """The file of the image at this position."""
        return self.dataset.images[self.index(position)]

    def view(self, position: int) -> int:
        """The number of the augmentation at this position: its own, or the image's where later epochs repeat them."""
        if not self.views:
            return position
        return self.index(position) + len(self.dataset) * (position // len(self.dataset) % self.views)

    def __getitem__(self, position: int) -> tuple[Any, ...] | Exception:
        """An item, or the error of a file that cannot be read: raised in a worker, its message would hold a traceback."""
        try:
            return self._cached(position) if self.cache else self._read(position)
        except (ValueError, OSError, WeightsError) as error:
            return error

    def _cached(self, position: int) -> tuple[Any, ...]:
        features, mask = self.cache[self.index(position), self.view(position)]
        return self.blank, mask.long(), position, torch.zeros(0, *mask.shape[-2:], dtype=torch.half), *features

    def _read(self, position: int) -> tuple[Tensor, Tensor, int, Tensor]:
        image, mask, target = self.augmented(self.index(position), self.view(position))
        return image, mask, position, target

    def augmented(self, index: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """The image with this index, its mask and its soft labels, by the augmentation with this number."""
        large = self._large(index)
        region = None if large is None or self.teacher else self._region(large, number)
        dataset: Any = self.dataset
        pair = dataset[index] if region is None else dataset.window(index, region)
        if pair[0].dtype != torch.uint8:
            pair = tv_tensors.Image(pair[0].float()), pair[1]
        height, width = pair[0].shape[-2:]
        where = [coordinates(height, width)] if self.teacher else []
        base = self._factor(*(large or (height, width)))
        transform = self.transform(scale=(self.scale[0] * base, self.scale[1] * base))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, number))
            image, mask, *where = transform(*pair, *where)
        mask = mask.as_subclass(Tensor).long()
        target = sample(self.teacher[index], where[0]) if self.teacher else mask.new_zeros(0, *mask.shape[-2:])
        return image.as_subclass(Tensor), mask, target.half()

    def _factor(self, height: int, width: int) -> float:
        """Input scale factor at which prediction reads an image of this size, in tiles or as a whole."""
        return self.preprocess.input_scale if self.full_size else size_factor(self.preprocess, height, width)

    def _large(self, index: int) -> tuple[int, int] | None:
        """Height and width of a large image that can be read by windows; None for others."""
        size_of = getattr(self.dataset, "window_size", None)
        size = size_of(index) if size_of else None
        return size if size and size[0] * size[1] >= LARGE else None

    def _region(self, size: tuple[int, int], number: int) -> Region | None:
        """The part of a large image that is read for a crop; None to read it whole.

        It holds a crop at the smallest scale and any angle. Its place is drawn anew each time, so that crops come from everywhere.
        """
        smallest = self.scale[0] * self._factor(*size)
        side = [min(math.ceil(crop / smallest) + 2, full) for crop, full in zip(self.reach, size, strict=True)]
        if side[0] * side[1] * 4 > size[0] * size[1]:
            return None
        random = torch.Generator().manual_seed(seed_of(self.seed + 1, number))
        top, left = (int(torch.randint(full - part + 1, (), generator=random)) for full, part in zip(size, side, strict=True))
        return Region(top, left, *side)


def batches(recipe: Recipe, step: int, process: int, processes: int) -> Iterator[list[int]]:
    """The positions of this process's images, a list for each micro-batch of each step that is left."""
    size = recipe.batch_size // (processes * recipe.accumulation)
    for number in range(step * recipe.accumulation, recipe.iterations * recipe.accumulation):
        first = (number * processes + process) * size
        yield list(range(first, first + size))


@contextmanager
def read_ahead(stream: Stream, order: Iterable[list[int]], workers: int) -> Iterator[Iterator[list[Tensor]]]:
    """(images, masks, positions, targets, features...) for each list of positions, read by workers that end with the block.

    Raises:
        ValueError: From the iterator, if an image or mask cannot be read or used; it names the file.
        OSError: From the iterator, if a file is gone.
    """
    loader = DataLoader(stream, batch_sampler=order, num_workers=workers, collate_fn=_collate, worker_init_fn=_ignore_stop_signals)
    read: Any = iter(loader)

    def checked() -> Iterator[list[Tensor]]:
        for micro_batch in read:
            if isinstance(micro_batch, Exception):
                raise micro_batch
            yield micro_batch

    try:
        yield checked()
    finally:
        if workers:  # at the interpreter's end, multiprocessing would wait for ever for workers that ignore its signal
            read._shutdown_workers()


def _collate(items: list[Any]) -> Any:
    error = next((item for item in items if isinstance(item, Exception)), None)
    return default_collate(items) if error is None else error


def _ignore_stop_signals(worker: int) -> None:
    """Ignore signals, which workers get with their process group: they end when the run ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def seed_of(seed: int, number: int) -> int:
    """A seed for one use; neighbouring numbers give unrelated seeds."""
    return (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63


def mask_class_fractions(dataset: SegmentationDataset) -> Tensor:
    """(classes,) float: each class's fraction of the counted pixels; only masks are read.

    Raises:
        ValueError: If every pixel is ignored.
    """
    counts = torch.zeros(len(dataset.labels), dtype=torch.int64)
    for index in range(len(dataset)):
        counts += torch.bincount(dataset.mask(index).flatten(), minlength=IGNORE + 1)[: len(counts)]
    if not counts.any():
        raise ValueError("Every pixel of the dataset is ignored; its classes have no fractions. Look at 'pspnet-zoo data check'")
    return counts / counts.sum()
