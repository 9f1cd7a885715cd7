"""The threshold of a two-class network that gives the best Dice on a dataset."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import as_segmentation_dataset
from ..inference.protocols import PROTOCOLS, InferenceProtocol
from ..inference.scores import SegmentationModel, class_probabilities, labels_of, number_of_ids
from ..meta import IGNORE
from ..streams.pipeline import in_order

STEPS = 200
"""Thresholds that are tried: 1 / STEPS, 2 / STEPS, ..."""


@dataclass(frozen=True)
class TunedThreshold:
    """A threshold, and the Dice coefficient of id 1 that it gives."""

    threshold: float
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

    Of several that are equally good, the one nearest to 0.5 is taken.

    Raises:
        ValueError: If there are not two classes, the model gives no probabilities, or no pixel is of id 1.
    """
    if number_of_ids(model) != 2:
        raise ValueError(f"A threshold is for two classes, and the model has {number_of_ids(model)}; measure it without one")
    if model.activation in ("argmax", "argmax2d"):
        raise ValueError("The file gives ids and no probabilities; tune the network that it was exported from, and export it again")
    dataset = as_segmentation_dataset(dataset, labels_of(model), channels=len(model.preprocess.mean))
    counts = torch.zeros(2, STEPS, dtype=torch.int64)
    for done, (image, ground_truth) in enumerate(in_order(dataset.__getitem__, range(len(dataset))), start=1):
        probability = class_probabilities(model, image[None], protocol)[0, 1].cpu()
        counts += histogram(probability, ground_truth)
        if progress:
            progress(done)
    if not counts[1].any():
        raise ValueError(f"No pixel is of '{dataset.labels.names[1]}'; choose a split that has some")
    dice = dice_by_threshold(counts)
    tried = torch.arange(1, STEPS) / STEPS
    best = torch.where(dice == dice.max(), (tried - 0.5).abs(), torch.inf).argmin()
    return TunedThreshold(round(float(tried[best]), 4), float(dice[best]), float(dice[STEPS // 2 - 1]))


def histogram(probability: Tensor, ground_truth: Tensor) -> Tensor:
    """(2, STEPS) int64 pixels of id 0 and of id 1, by probability of id 1; one at a threshold is below it, as in prediction."""
    counted = ground_truth != IGNORE
    bins = ((probability[counted].double() * STEPS).ceil().long() - 1).clamp(0, STEPS - 1)
    return torch.bincount(ground_truth[counted].long() * STEPS + bins, minlength=2 * STEPS).view(2, STEPS)


def dice_by_threshold(counts: Tensor) -> Tensor:
    """(STEPS - 1,) float64 Dice coefficient of id 1 at each threshold of a histogram."""
    above = counts.flip(1).cumsum(1).flip(1)[:, 1:].double()  # pixels above each threshold
    return 2 * above[1] / (above.sum(0) + counts[1].sum())
