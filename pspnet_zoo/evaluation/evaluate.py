"""Evaluation of a network on a dataset, in one process or several."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from ..data.dataset import SegmentationDataset, as_segmentation_dataset
from ..data.images import read_image
from ..inference.protocols import PROTOCOLS, InferenceProtocol
from ..inference.scores import (
    SegmentationModel,
    class_ids,
    class_scores,
    decided,
    decision_of,
    gives_ids,
    labels_of,
    named_image,
    number_of_ids,
    protocol_for,
    stored,
)
from ..meta import IGNORE, Labels, Preprocess
from ..streams.pipeline import in_order
from .details import DetailCounts, Details
from .metrics import ConfusionMatrix

_log = logging.getLogger(__name__)

Save = Callable[[int, Tensor], None]
"""Called with the index of an image in the dataset and its predicted (H, W) class ids, on the CPU; uint8 up to 255 classes. Of
multi-label, (classes, H, W) bool."""

Progress = Callable[[int], None]
"""Called after each image with the number of images that this process has done."""


class EvaluationStopped(Exception):
    """`stops` ended an evaluation, in this process or another; there is no result."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics over a dataset, each from one confusion matrix of all its pixels."""

    miou: float
    """Mean intersection over union of the classes that occur or were predicted, 0..1."""
    iou: dict[str, float | None]
    """IoU by class name, 0..1; None for a class that neither occurs nor was predicted."""
    dice: dict[str, float | None]
    """Dice coefficient by class name, 0..1; None as for the IoU."""
    precision: dict[str, float | None]
    """Precision by class name, 0..1; None for a class that was not predicted."""
    recall: dict[str, float | None]
    """Recall by class name, 0..1; None for a class that does not occur."""
    category_miou: float | None
    """Mean IoU of the classes' categories; None where the labels have none."""
    category_iou: dict[str, float | None] | None
    """IoU by category name; None where the labels have none."""
    pixel_accuracy: float
    """Fraction of the counted pixels that is predicted correctly; of multi-label, each class of a pixel counts."""
    mean_accuracy: float
    """Mean recall over the classes that occur."""
    loss: float | None
    """Mean cross entropy over the counted pixels, in nats; of the averaged probabilities where the protocol averages. Of
    multi-label, the mean binary cross entropy over the classes of the pixels. None of a model that gives ids alone."""
    images: int
    protocol: InferenceProtocol
    confusion: list[list[Any]]
    """Numbers of pixels; a row for each class of the ground truth, a column for each predicted class. Of multi-label, such a
    matrix of 2x2 for each class, in which the second row and column are of the pixels of the class."""
    image_miou: list[float | None]
    """mIoU of each image alone, to rank images; None where no pixel counts. `miou` is not their mean."""
    details: Details | None = None
    """Boundaries, calibration and intervals; None unless they were requested."""

    def as_json(self) -> dict[str, Any]:
        """The numbers of the whole dataset, None where nothing was to be measured, and the protocol in words and its settings."""
        numbers = {
            name: None if isinstance(value, float) and math.isnan(value) else value  # JSON has no NaN
            for name, value in vars(self).items()
            if name not in ("image_miou", "details")
        }
        details = self.details.as_json() if self.details else {}
        return {**numbers, **details, "protocol": str(self.protocol), "protocol_settings": asdict(self.protocol)}


@torch.inference_mode()
def evaluate(
    model: SegmentationModel,
    dataset: Any,
    protocol: InferenceProtocol = PROTOCOLS["whole"],
    *,
    details: bool = False,
    save: Save | None = None,
    progress: Progress | None = None,
    stops: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Segment every image, and compare with the ground truth.

    Where `torch.distributed` is initialised, every process must call this; the images are divided among them, every image
    is counted once, and all get the same result.

    Args:
        model: On the device to run on; its training or evaluation mode is left as it was.
        dataset: Of `open_dataset`, or any dataset that `pspnet_zoo.data.dataset.CheckedDataset` takes, with the model's
            classes.
        protocol: How each image is segmented; the result holds the protocol that `scores.protocol_for` makes of it.
        details: Also compute `Evaluation.details`.
        save: Called with each prediction of this process.
        progress: Called after each image of this process.
        stops: Asked after each image of this process whether to end all processes' evaluation.

    Raises:
        EvaluationStopped: If `stops` said so.
        ValueError: If the classes are not the model's, the split has no ground truth, or no pixel of it counts.
        ImageError: If a file cannot be read.
        ConnectionError: If another process stopped.
    """
    dataset = as_segmentation_dataset(dataset, labels_of(model), channels=len(model.preprocess.mean))
    check_classes(model, dataset.labels)
    check_pixels(model, dataset.preprocess)
    decision = decision_of(model)
    confusion = ConfusionMatrix(len(dataset.labels), decision.multilabel)
    detailed = DetailCounts(len(dataset.labels), len(dataset), decision) if details else None
    losses, image_miou = torch.zeros(2, len(dataset), dtype=torch.float64)
    pairs, stopped = in_order(lambda index: (index, *dataset[index]), _share(len(dataset))), False
    for done, (index, image, ground_truth) in enumerate(pairs, start=1):
        size = (image.shape[-2], image.shape[-1])
        with named_image(dataset.images[index]):
            scores = class_scores(model, image[None], protocol)
        ground_truth, prediction = ground_truth.to(scores.device), decided(scores, size, decision)[0]
        one = ConfusionMatrix(len(dataset.labels), decision.multilabel)
        one.update(prediction, ground_truth)
        confusion.counts += one.counts
        image_miou[index] = one.miou
        if scores.shape[-2:] != size:
            scores = F.interpolate(scores, size=size, mode="bilinear")
        if detailed:
            detailed.update(index, one, scores[0], prediction, ground_truth)
        losses[index] = _summed_loss(scores[0], ground_truth, decision.multilabel).item()
        if save:
            save(index, stored(prediction, len(dataset.labels)))
        if progress:
            progress(done)
        if stopped := stops():
            break
    device = model.device
    if _sum_over_processes(torch.tensor(float(stopped)), device):
        raise EvaluationStopped
    # an image's numbers are 0 in all processes but one, so that sums do not depend on the number of processes
    confusion.counts, losses, image_miou = (_sum_over_processes(t, device) for t in (confusion.counts, losses, image_miou))
    counted = int(confusion.counts.sum())
    if not counted:
        raise ValueError("Every pixel of the dataset is ignored; there is nothing to measure")
    if not decision.multilabel:
        _warn_of_one_class(confusion, dataset.labels)
    categories = dataset.labels.categories
    by_category = confusion.merged(list(categories.values())) if categories else None
    return Evaluation(
        miou=confusion.miou,
        **{key: _by_name(dataset.labels.names, getattr(confusion, key)) for key in ("iou", "dice", "precision", "recall")},
        category_miou=by_category.miou if by_category else None,
        category_iou=_by_name(list(categories), by_category.iou) if by_category else None,
        pixel_accuracy=confusion.pixel_accuracy,
        mean_accuracy=confusion.mean_accuracy,
        loss=None if gives_ids(model) else losses.sum().item() / counted,
        images=len(dataset),
        protocol=protocol_for(model, protocol),
        confusion=confusion.counts.tolist(),
        image_miou=_none_for_nan(image_miou),
        details=detailed.result(dataset.labels.names, partial(_sum_over_processes, device=device)) if detailed else None,
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
    """Segment every image, with or without ground truth. Several processes divide the images among them, as in `evaluate`.

    Raises:
        ValueError: If the classes are not the model's.
        ImageError: If an image cannot be read.
    """
    check_classes(model, dataset.labels)
    images = in_order(lambda index: (index, read_image(dataset.images[index])), _share(len(dataset)))
    for done, (index, pixels) in enumerate(images, start=1):
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        with named_image(dataset.images[index]):
            ids = class_ids(model, image[None], protocol)[0]
        save(index, stored(ids, len(dataset.labels)))
        if progress:
            progress(done)


def check_classes(model: SegmentationModel, labels: Labels) -> None:
    """Refuse a dataset whose classes are not the network's.

    Raises:
        ValueError: If their number, names or order differ, or one of both has several classes a pixel.
    """
    if (multilabel := decision_of(model).multilabel) != labels.multilabel:
        kinds = ("one class a pixel", "several (multi-label)")
        raise ValueError(
            f"The model gives {kinds[multilabel]} and the dataset has {kinds[labels.multilabel]}; use a model that was built with "
            f"multilabel={labels.multilabel}"
        )
    count = number_of_ids(model)
    if count != len(labels):
        raise ValueError(f"The model has {count} classes and the dataset {len(labels)}; they must be the same")
    known = labels_of(model)
    if known is not None and known.names != labels.names and (len(model.labels or ()) > 1 or known.names[1:] != labels.names[1:]):
        raise ValueError(f"The model's classes are {known.names}, the dataset's {labels.names}")


def check_pixels(model: SegmentationModel, stated: Preprocess | None) -> None:
    """Refuse a dataset that states other bands or another range of pixel values than the network reads.

    Raises:
        ValueError: With both.
    """
    own = model.preprocess
    if stated is None:
        return
    if (len(stated.mean), stated.white) != (len(own.mean), own.white) or (stated.bands and own.bands and stated.bands != own.bands):

        def told(each: Preprocess) -> str:
            return f"{', '.join(each.bands) or f'{len(each.mean)} bands'} with white at {each.white:g}"

        raise ValueError(
            f"The dataset states {told(stated)}, and the network reads {told(own)}; evaluate on a dataset that states the network's"
        )


def _summed_loss(scores: Tensor, ground_truth: Tensor, multilabel: bool) -> Tensor:
    """The cross entropy of (C, H, W) scores, summed over the counted pixels."""
    if not multilabel:
        return F.cross_entropy(scores[None], ground_truth[None].long(), ignore_index=IGNORE, reduction="sum")
    counted = ground_truth != IGNORE
    return F.binary_cross_entropy_with_logits(scores[counted], ground_truth[counted].float(), reduction="sum")


def _warn_of_one_class(confusion: ConfusionMatrix, labels: Labels) -> None:
    """Masks of 0 and 255 make any network look perfect: the other class is ignored."""
    occurring = [name for name, pixels in zip(labels.names, confusion.counts.sum(1).tolist(), strict=True) if pixels]
    if len(occurring) == 1:
        _log.warning(
            "Warning: the ground truth holds no other class than '%s', so the mIoU says little; 255 is ignored", *occurring
        )


def _share(count: int) -> range:
    """The indices of the images that this process takes."""
    if not _is_distributed():
        return range(count)
    return range(distributed.get_rank(), count, distributed.get_world_size())


def _sum_over_processes(values: Tensor, device: torch.device) -> Tensor:
    """The sum over the processes, on the CPU; `device` is one that their backend supports."""
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
