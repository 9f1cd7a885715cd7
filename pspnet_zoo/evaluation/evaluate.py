"""A network against a dataset, in one process or several."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from ..data.dataset import SegmentationDataset
from ..data.images import read_image
from ..inference.protocols import PROTOCOLS, InferenceProtocol
from ..inference.scores import SegmentationModel, class_ids, class_scores, labels_of, largest, number_of_ids, protocol_for, stored
from ..meta import IGNORE, Labels
from ..streams.pipeline import in_order
from .metrics import ConfusionMatrix

Save = Callable[[int, Tensor], None]
"""Called with the position of an image in the dataset and its (H, W) class ids, on the CPU; uint8 up to 255 classes."""

Progress = Callable[[int], None]
"""Called after each image with how many this process has done."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics over a dataset, each from one confusion matrix of all its pixels."""

    miou: float
    """Mean intersection over union of the classes that occur or were predicted, 0..1."""
    iou: dict[str, float | None]
    """By class name, 0..1; None for a class that neither occurs nor was predicted."""
    category_miou: float | None
    """As `miou`, of the classes' categories; None where the labels have none."""
    category_iou: dict[str, float | None] | None
    """By category name; None where the labels have none."""
    pixel_accuracy: float
    """Fraction of the pixels that count."""
    mean_accuracy: float
    """Mean over the classes that occur of the fraction of their pixels that was found."""
    loss: float
    """Mean over the pixels that count of -log of the true class's probability, in nats; of the averaged probability where the
    protocol averages."""
    images: int
    protocol: InferenceProtocol
    confusion: list[list[int]]
    """Pixels; a row for each true class, a column for each prediction."""
    image_miou: list[float | None]
    """mIoU of each image alone, to find the worst and the best; None where no pixel counts. `miou` is not their mean."""

    def as_json(self) -> dict[str, Any]:
        """The numbers of the whole dataset; `protocol` in words, and all its settings."""
        numbers = {name: value for name, value in vars(self).items() if name != "image_miou"}
        return {**numbers, "protocol": str(self.protocol), "protocol_settings": asdict(self.protocol)}


@torch.inference_mode()
def evaluate(
    model: SegmentationModel,
    dataset: SegmentationDataset,
    protocol: InferenceProtocol = PROTOCOLS["whole"],
    *,
    save: Save | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Segment every image and compare.

    Where `torch.distributed` is initialised, every process must call this; each takes its share of the images, every image is
    counted once, and all get the same result.

    Args:
        model: On the device to run on; its training or evaluation mode is left as it was.
        dataset: Its labels are the model's classes.
        protocol: How each image is segmented; the result has what `scores.protocol_for` makes of it.
        save: Takes the predictions of this process's share.
        progress: Takes the number of images done of this process's share.

    Raises:
        ValueError: If the classes are not the model's, the split has no ground truth, or no pixel of it counts.
        ImageError: If a file cannot be read.
        ConnectionError: If another process stopped.
    """
    check_classes(model, dataset.labels)
    confusion = ConfusionMatrix(len(dataset.labels))
    losses, image_miou = torch.zeros(2, len(dataset), dtype=torch.float64)
    pairs = in_order(lambda index: (index, *dataset[index]), _share(len(dataset)))
    for done, (index, image, truth) in enumerate(pairs, start=1):
        size = (image.shape[-2], image.shape[-1])
        scores = class_scores(model, image[None], protocol)
        truth, prediction = truth.to(scores.device), largest(scores, size)[0]
        one = ConfusionMatrix(len(dataset.labels))
        one.update(prediction, truth)
        confusion.counts += one.counts
        image_miou[index] = one.miou
        if scores.shape[-2:] != size:
            scores = F.interpolate(scores, size=size, mode="bilinear")
        losses[index] = F.cross_entropy(scores, truth[None].long(), ignore_index=IGNORE, reduction="sum").item()
        if save:
            save(index, stored(prediction, len(dataset.labels)))
        if progress:
            progress(done)
    device = model.device
    # an image's numbers are 0 in all processes but one, so that no sum depends on how many there are
    confusion.counts, losses, image_miou = (_sum_over_processes(t, device) for t in (confusion.counts, losses, image_miou))
    counted = int(confusion.counts.sum())
    if not counted:
        raise ValueError("Every pixel of the dataset is ignored; there is nothing to measure")
    categories = dataset.labels.categories
    by_category = confusion.merged(list(categories.values())) if categories else None
    return Evaluation(
        miou=confusion.miou,
        iou=_by_name(dataset.labels.names, confusion.iou),
        category_miou=by_category.miou if by_category else None,
        category_iou=_by_name(list(categories), by_category.iou) if by_category else None,
        pixel_accuracy=confusion.pixel_accuracy,
        mean_accuracy=confusion.mean_accuracy,
        loss=losses.sum().item() / counted,
        images=len(dataset),
        protocol=protocol_for(model, protocol),
        confusion=confusion.counts.tolist(),
        image_miou=_none_for_nan(image_miou),
    )


@torch.inference_mode()
def predict_all(
    model: SegmentationModel,
    dataset: SegmentationDataset,
    protocol: InferenceProtocol,
    save: Save,
    *,
    progress: Progress | None = None,
) -> None:
    """Segment every image, with or without ground truth. Several processes share the images as in `evaluate`.

    Raises:
        ValueError: If the classes are not the model's.
        ImageError: If an image cannot be read.
    """
    check_classes(model, dataset.labels)
    images = in_order(lambda index: (index, read_image(dataset.images[index])), _share(len(dataset)))
    for done, (index, pixels) in enumerate(images, start=1):
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        save(index, stored(class_ids(model, image[None], protocol)[0], len(dataset.labels)))
        if progress:
            progress(done)


def check_classes(model: SegmentationModel, labels: Labels) -> None:
    """Refuse a dataset whose classes are not the network's.

    Raises:
        ValueError: If their number, names or order differ.
    """
    count = number_of_ids(model)
    if count != len(labels):
        raise ValueError(f"The model has {count} classes and the dataset {len(labels)}; they must be the same")
    known = labels_of(model)
    if known is not None and known.names != labels.names and (len(model.labels or ()) > 1 or known.names[1:] != labels.names[1:]):
        raise ValueError(f"The model's classes are {known.names}, the dataset's {labels.names}")


def _share(count: int) -> range:
    """The positions that this process takes."""
    if not _is_distributed():
        return range(count)
    return range(distributed.get_rank(), count, distributed.get_world_size())


def _sum_over_processes(values: Tensor, device: torch.device) -> Tensor:
    """The sum of what each process has, on the CPU; `device` is one that the processes' backend serves."""
    if not _is_distributed():
        return values
    values = values.to(device)
    try:
        distributed.all_reduce(values)
    except RuntimeError as error:
        raise ConnectionError(f"Another process stopped; its own error says why. This one lost it: {error}") from error
    return values.cpu()


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _by_name(names: Sequence[str], values: Tensor) -> dict[str, float | None]:
    return dict(zip(names, _none_for_nan(values), strict=True))


def _none_for_nan(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
