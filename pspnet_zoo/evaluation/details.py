"""Measures that show where a network fails: boundaries, calibration, every image, and how far chance reaches.

Sources: Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", section 2.2 (boundary F1); Guo et al.
2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599), section 2 (reliability, ECE); Efron and Tibshirani 1993, "An
Introduction to the Bootstrap", chapter 13 (percentile intervals).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..meta import IGNORE, Decision
from .metrics import ConfusionMatrix

BINS = 15
"""Bins of the reliability curve, of equal width."""
TOLERANCE = 0.0075
"""Distance at which boundaries match, as a fraction of the image's diagonal; it is rounded to pixels, at least one."""
RESAMPLES = 1000
"""Bootstrap samples of the images."""


@dataclass(frozen=True, kw_only=True)
class Details:
    """Measures that show where a network fails, over a dataset."""

    boundary_f1: dict[str, float | None]
    """Boundary F1 by class name, 0 to 1, of all boundary pixels of the dataset; None for a class without any."""
    mean_boundary_f1: float | None
    """Mean over the classes that have a boundary; None if there is none."""
    reliability: list[dict[str, float]]
    """A bin of probability each: "confidence" and "accuracy", 0 to 1, means of its pixels, and the number of "pixels"."""
    ece: float
    """Expected calibration error, 0 to 1: the mean distance of confidence and accuracy, over the pixels."""
    intervals: dict[str, list[float]]
    """[low, high] that hold 95 % of the bootstrap samples of the images, of "miou", "pixel_accuracy", "mean_accuracy"."""
    iou_intervals: dict[str, list[float] | None]
    """The same of the IoU, by class name."""
    counts: Tensor
    """(images, classes, 3) int64 pixels of each image: correct, predicted, in the ground truth."""

    def as_json(self) -> dict[str, Any]:
        """The numbers of the whole dataset."""
        return {name: value for name, value in vars(self).items() if name != "counts"}


class DetailCounts:
    """Counts that `Details` are computed from.

    Args:
        classes: Number of classes.
        images: Number of images of the dataset.
        decision: How classes follow from scores.
    """

    def __init__(self, classes: int, images: int, decision: Decision = Decision()) -> None:  # noqa: B008
        self.decision = decision
        self.images = torch.zeros(images, classes, 3, dtype=torch.int64)
        self.boundaries = torch.zeros(classes, 4, dtype=torch.int64)
        self.bins = torch.zeros(BINS, 3, dtype=torch.float64)

    def update(self, index: int, confusion: ConfusionMatrix, scores: Tensor, prediction: Tensor, ground_truth: Tensor) -> None:
        """Count an image.

        Args:
            index: Of the image in the dataset.
            confusion: Of this image.
            scores: (classes, H, W).
            prediction: (H, W) ids; of multi-label, (classes, H, W) bool.
            ground_truth: (H, W) ids, 255 where ignored; of multi-label, (classes, H, W) of 0, 1 and 255.
        """
        self.images[index] = torch.stack([confusion.hits, confusion.predicted, confusion.occurring], 1)
        counted = ground_truth != IGNORE
        probability = self.decision.probabilities(scores[None])[0]
        if self.decision.multilabel:  # each class is a task of two
            for own, predicted, true in zip(self.boundaries, prediction.long(), ground_truth, strict=True):
                own += boundary_counts(predicted, true, 2)[1].cpu()
            sure = torch.where(prediction, probability, 1 - probability)
        else:
            self.boundaries += boundary_counts(prediction, ground_truth, len(self.boundaries)).cpu()
            sure = probability.gather(0, prediction[None])[0]
        self.bins += reliability_counts(sure[counted].double(), (prediction == ground_truth)[counted]).cpu()

    def result(self, names: Sequence[str], sum_up: Callable[[Tensor], Tensor]) -> Details:
        """The measures; `sum_up` sums a tensor over processes."""
        counts, boundaries, bins = map(sum_up, (self.images, self.boundaries, self.bins))
        f1 = boundary_f1(boundaries)
        pixels, confidence, right = bins.T
        per_bin = bins[pixels > 0]
        intervals, iou = bootstrap(counts)
        if self.decision.multilabel:  # pixels that are rightly of no class are not among the counts
            intervals.pop("pixel_accuracy", None)
        return Details(
            boundary_f1={name: None if v != v else v for name, v in zip(names, f1.tolist(), strict=True)},
            mean_boundary_f1=None if f1.isnan().all() else f1.nanmean().item(),
            reliability=[{"confidence": c / n, "accuracy": r / n, "pixels": n} for n, c, r in per_bin.tolist()],
            ece=((confidence - right).abs().sum() / pixels.sum()).item(),
            intervals=intervals,
            iou_intervals=dict(zip(names, iou, strict=True)),
            counts=counts,
        )


def reliability_counts(confidence: Tensor, right: Tensor) -> Tensor:
    """(BINS, 3) float64: pixels, sum of confidences, and correct pixels by bin of (n,) confidences of 0 to 1."""
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    columns = torch.stack([torch.ones_like(confidence), confidence, right.to(confidence)], 1)
    return columns.new_zeros(BINS, 3).index_add_(0, bins, columns)


def boundary_counts(prediction: Tensor, ground_truth: Tensor, classes: int) -> Tensor:
    """(classes, 4) int64 of an image: predicted boundary pixels near a true one, all predicted; the same for true ones.

    A boundary pixel has a neighbor of another class by a side; ignored pixels are no neighbors. Near is within `TOLERANCE`, along
    rows and along columns.
    """
    radius = max(round(TOLERANCE * (prediction.shape[0] ** 2 + prediction.shape[1] ** 2) ** 0.5), 1)
    ground_truth = ground_truth.long()
    both = torch.stack([prediction.where(ground_truth != IGNORE, IGNORE), ground_truth])
    edges = _edges(both)
    counts = torch.zeros(classes, 4, dtype=torch.int64, device=prediction.device)
    for class_id in both[edges].unique().tolist():
        own = edges & (both == class_id)
        wide = F.max_pool2d(own.float(), (2 * radius + 1, 1), stride=1, padding=(radius, 0))
        wide = F.max_pool2d(wide, (1, 2 * radius + 1), stride=1, padding=(0, radius)) > 0
        near = (own & wide.flip(0)).sum((1, 2))
        total = own.sum((1, 2))
        counts[class_id] = torch.stack([near[0], total[0], near[1], total[1]])
    return counts


def _edges(ids: Tensor) -> Tensor:
    """(N, H, W) bool of ids: pixels beside one of another class."""
    edges = torch.zeros_like(ids, dtype=torch.bool)
    for dim in (1, 2):
        first, second = ids.narrow(dim, 0, ids.shape[dim] - 1), ids.narrow(dim, 1, ids.shape[dim] - 1)
        differ = (first != second) & (first != IGNORE) & (second != IGNORE)
        edges.narrow(dim, 0, ids.shape[dim] - 1).logical_or_(differ)
        edges.narrow(dim, 1, ids.shape[dim] - 1).logical_or_(differ)
    return edges


def boundary_f1(counts: Tensor) -> Tensor:
    """(classes,) float64 harmonic mean of precision and recall; 0 where one has no boundary, NaN where both have none."""
    near_predicted, predicted, near_true, true = counts.double().T
    precision, recall = near_predicted / predicted.clamp(min=1), near_true / true.clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return f1.where(predicted + true > 0, torch.nan)


def bootstrap(counts: Tensor) -> tuple[dict[str, list[float]], list[list[float] | None]]:
    """95 % intervals of the means, and of the IoU of each class, over samples of the images with replacement.

    The samples are the same in every call with as many images, so that two networks are compared on the same ones.

    Args:
        counts: See `Details.counts`.
    """
    samples = resampled(counts)
    means = {name: interval(values) for name, values in measures(samples).items()}
    iou = iou_of(samples)
    return {name: found for name, found in means.items() if found}, [interval(column) for column in iou.T]


def resampled(counts: Tensor) -> Tensor:
    """(RESAMPLES, classes, 3) float64 sums over samples of the images."""
    images, generator = len(counts), torch.Generator().manual_seed(0)
    numbers, found = counts.flatten(1).double(), []
    for _ in range(RESAMPLES):  # one at a time: all together would be thousands of numbers for each image
        times = torch.bincount(torch.randint(images, (images,), generator=generator), minlength=images)
        found.append(times.double() @ numbers)
    return torch.stack(found).view(RESAMPLES, *counts.shape[1:])


def measures(sums: Tensor) -> dict[str, Tensor]:
    """The measures "miou", "pixel_accuracy" and "mean_accuracy" of (..., classes, 3) sums of `Details.counts`."""
    hits, _, true = sums.unbind(-1)
    return {
        "miou": iou_of(sums).nanmean(-1),
        "pixel_accuracy": hits.sum(-1) / true.sum(-1),
        "mean_accuracy": (hits / true).nanmean(-1),
    }


def iou_of(sums: Tensor) -> Tensor:
    """(..., classes) IoU of (..., classes, 3) sums of `Details.counts`."""
    hits, predicted, true = sums.unbind(-1)
    return hits / (predicted + true - hits)


def interval(values: Tensor) -> list[float] | None:
    """The middle 95 %, without the samples in which there is nothing to measure."""
    values = values[~values.isnan()]
    return values.quantile(values.new_tensor([0.025, 0.975])).tolist() if len(values) else None
