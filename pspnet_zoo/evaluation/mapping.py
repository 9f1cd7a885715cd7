"""A model and a dataset with different classes, measured on the classes that both become."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from ..data.dataset import SegmentationDataset
from ..data.layouts.classes import DROPPED, Classes
from ..inference.scores import SegmentationModel, as_logits, decision_of, gives_ids, labels_of
from ..meta import IGNORE, Labels

_log = logging.getLogger(__name__)


class MappedNetwork:
    """A model whose classes are merged: a class has the sum of the probabilities of those that become it.

    Ignored and dropped classes of the model are never predicted; the probabilities of the others count there. The model's threshold
    is kept where each of its classes becomes one class, in the same order; elsewhere it has no meaning, and a warning says so.

    Args:
        network: The model, as `pspnet_zoo.runtimes.open.open_runtime` gives it.
        classes: What its classes become, by their names.

    Attributes:
        mapping: The content of `classes`, as JSON has it.
        gives_ids: Whether the model gives ids and no probabilities, so that there is no loss.

    Raises:
        ValueError: If a class of the model is nowhere in `classes`, none becomes one of them, or it is multi-label.
    """

    def __init__(self, network: SegmentationModel, classes: Classes) -> None:
        if decision_of(network).multilabel:
            raise ValueError(
                "A mapping sums probabilities of classes that exclude each other, and the model is multi-label; measure its own "
                "classes, without a mapping"
            )
        own = labels_of(network)
        if own is None:
            raise ValueError("The model has no labels, so that its classes cannot be mapped by name")
        found = _find_all(own.names, classes, "model")
        self._groups = [[i for i, each in enumerate(found) if each == class_id] for class_id in range(len(classes.labels))]
        if empty := [name for name, group in zip(classes.labels.names, self._groups, strict=True) if not group]:
            raise ValueError(f"No class of the model becomes {empty[0]!r}; it has {', '.join(own.names)}")
        self._network = network
        self.labels: Labels | None = classes.labels
        self.classes = len(classes.labels)
        self.activation = None
        self.gives_ids = gives_ids(network)
        self.mapping = _content(classes)
        self.threshold = decision_of(network).threshold
        if self.threshold is not None and self._groups != [[i] for i in range(len(own))]:
            _log.warning(
                "Warning: the model's threshold %s is of its own classes, and the mapping makes others of them; the most probable "
                "class is measured, without a threshold",
                self.threshold,
            )
            self.threshold = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def __call__(self, x: Tensor, /) -> Tensor:
        """(N, C, H, W) to (N, classes, h, w): logarithms of the summed probabilities."""
        output = self._network(x)
        output = output[0] if isinstance(output, tuple) else output
        scores = as_logits(output, self._network.activation, self._network.classes).log_softmax(1)
        return torch.stack([scores[:, group].logsumexp(1) for group in self._groups], 1)


class MappedDataset:
    """A dataset whose masks hold other classes.

    Args:
        dataset: The dataset.
        classes: What its classes become, by their names.

    Raises:
        ValueError: If a class of the dataset is nowhere in `classes`.
    """

    def __init__(self, dataset: SegmentationDataset, classes: Classes) -> None:
        if dataset.labels.multilabel:
            raise ValueError("A mapping is for masks of one class a pixel, and the dataset is multi-label; leave the mapping out")
        self._dataset, self.labels = dataset, classes.labels
        self.images: Sequence[Path] = dataset.images
        self.masks: Sequence[Path] = dataset.masks
        found = _find_all(dataset.labels.names, classes, "dataset")
        self._table = torch.full((256,), IGNORE, dtype=torch.uint8)
        self._table[: len(found)] = torch.tensor(
            [classes.undrawn if each == DROPPED else each for each in found], dtype=torch.uint8
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """The mask of an item with the mapped ids."""
        image, mask = self._dataset[index]
        return image, tv_tensors.Mask(self._table[mask.long()])

    def mask(self, index: int) -> tv_tensors.Mask:
        """The second of an item, without reading the image."""
        return tv_tensors.Mask(self._table[self._dataset.mask(index).long()])


def _content(classes: Classes) -> dict[str, Any]:
    """The classes of a mapping and their categories, without colors; the order in which categories are listed is left out."""
    return {
        "names": list(classes.labels.names),
        "mapping": {name: sorted(group, key=str) for name, group in classes.mapping.items()},
        "ignore": sorted(classes.ignore, key=str),
        "drop": sorted(classes.drop, key=str),
        "background": classes.background,
    }


def _find_all(names: Sequence[str], classes: Classes, what: str) -> list[int]:
    found = [classes.find(name) for name in names]
    if missing := [name for name, each in zip(names, found, strict=True) if each is None]:
        raise ValueError(
            f'The mapping does not mention {", ".join(map(repr, missing))} of the {what}; add them to "mapping", "ignore" or "drop"'
        )
    return [each for each in found if each is not None]
