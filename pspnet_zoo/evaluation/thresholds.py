"""The threshold of a two-class network that gives the best Dice on a dataset, and those of the classes of a multi-label one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import as_segmentation_dataset
from ..inference.protocols import PROTOCOLS, InferenceProtocol
from ..inference.scores import SegmentationModel, class_probabilities, decision_of, labels_of, named_image, number_of_ids
from ..meta import IGNORE
from ..streams.pipeline import in_order
from .evaluate import check_classes, check_pixels

STEPS = 200
"""Thresholds that are tried: 1 / STEPS, 2 / STEPS, ..."""


@dataclass(frozen=True)
class TunedThreshold:
    """A threshold, or one a class of multi-label, and the Dice coefficient that it gives: of id 1, or the mean of the classes."""

    threshold: float | tuple[float, ...]
    dice: float
    dice_of_half: float
    """Dice at 0.5, which is the more probable class."""


@torch.inference_mode()
def tune_threshold(
    model: SegmentationModel,
    dataset: Any,
    protocol: InferenceProtocol = PROTOCOLS["whole"],
    *,
    progress: Callable[[int], None] | None = None,
) -> TunedThreshold:
    """Find the threshold with the largest Dice coefficient of id 1, which is also the one with the largest IoU.

    Of several that are equally good, the one nearest to 0.5 is taken. For a multi-label model, that is done for each class; one
    without pixels gets 0.5.

    Raises:
        ValueError: If there are not two classes, the model gives no probabilities, or no pixel is of id 1, or of any class of
            multi-label.
    """
    multilabel = decision_of(model).multilabel
    if not multilabel and number_of_ids(model) != 2:
        raise ValueError(f"A threshold is for two classes, and the model has {number_of_ids(model)}; measure it without one")
    if model.activation in ("argmax", "argmax2d"):
        raise ValueError("The file gives ids and no probabilities; tune the network that it was exported from, and export it again")
    dataset = as_segmentation_dataset(dataset, labels_of(model), channels=len(model.preprocess.mean))
    check_classes(model, dataset.labels)
    check_pixels(model, dataset.preprocess)
    names = dataset.labels.names if multilabel else dataset.labels.names[1:]
    counts = torch.zeros(len(names), 2, STEPS, dtype=torch.int64)
    for done, (image, ground_truth) in enumerate(in_order(dataset.__getitem__, range(len(dataset))), start=1):
        with named_image(dataset.images[done - 1]):
            probability = class_probabilities(model, image[None], protocol)[0].cpu()
        planes = zip(probability, ground_truth, strict=True) if multilabel else ((probability[1], ground_truth),)
        for own, plane in zip(counts, planes, strict=True):
            own += histogram(*plane)
        if progress:
            progress(done)
    occurs = counts[:, 1].any(1)
    if not occurs.any():
        raise ValueError(f"No pixel is of {' or '.join(map(repr, names))}; choose a split that has some")
    dice = torch.stack([dice_by_threshold(own) for own in counts])
    tried = torch.arange(1, STEPS) / STEPS
    best = [int(torch.where(own == own.max(), (tried - 0.5).abs(), torch.inf).argmin()) for own in dice.where(occurs[:, None], 0)]
    found = tuple(round(float(tried[i]), 4) for i in best)
    means = [dice[range(len(best)), at][occurs].mean().item() for at in (best, [STEPS // 2 - 1] * len(best))]
    return TunedThreshold(found if multilabel else found[0], *means)


def histogram(probability: Tensor, ground_truth: Tensor) -> Tensor:
    """(2, STEPS) int64 pixels of id 0 and of id 1, by probability of id 1; one at a threshold is below it, as in prediction."""
    counted = ground_truth != IGNORE
    bins = ((probability[counted].double() * STEPS).ceil().long() - 1).clamp(0, STEPS - 1)
    return torch.bincount(ground_truth[counted].long() * STEPS + bins, minlength=2 * STEPS).view(2, STEPS)


def dice_by_threshold(counts: Tensor) -> Tensor:
    """(STEPS - 1,) float64 Dice coefficient of id 1 at each threshold of a histogram."""
    above = counts.flip(1).cumsum(1).flip(1)[:, 1:].double()  # pixels above each threshold
    return 2 * above[1] / (above.sum(0) + counts[1].sum())
