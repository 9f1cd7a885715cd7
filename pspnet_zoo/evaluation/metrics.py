"""Segmentation metrics from one confusion matrix over a whole dataset.

Averages of per-image scores are not used: they weigh a class by the number of images it happens to be in.
Source: Everingham et al. 2015, "The Pascal Visual Object Classes Challenge: A Retrospective", section 3.1.3 (IoU).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.labels import IGNORE


class ConfusionMatrix:
    """Counts of pixels by true and predicted class.

    Args:
        classes: Number of classes.

    Attributes:
        counts: (classes, classes) int64; rows are the ground truth, columns the prediction.
    """

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)

    def update(self, prediction: Tensor, ground_truth: Tensor) -> None:
        """Count the pixels of one or more images.

        Args:
            prediction: Integer ids of any shape, each below the number of classes.
            ground_truth: Ids of the same shape; 255 is not counted.

        Raises:
            ValueError: If the shapes differ, or an id is not a class.
        """
        if prediction.shape != ground_truth.shape:
            raise ValueError(
                f"The prediction is {tuple(prediction.shape)} and the ground truth {tuple(ground_truth.shape)}; they must be equal"
            )
        counted = ground_truth != IGNORE
        targets, prediction = ground_truth[counted].long(), prediction[counted].long()
        classes = len(self.counts)
        for what, ids in (("ground truth", targets), ("prediction", prediction)):
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < classes:
                raise ValueError(f"The {what} holds ids from {int(ids.min())} to {int(ids.max())}; there are {classes} classes")
        self.counts += torch.bincount(targets * classes + prediction, minlength=classes**2).view(classes, classes).cpu()

    def merged(self, groups: Sequence[Sequence[int]]) -> "ConfusionMatrix":
        """The matrix of groups of classes, in which confusion within a group is correct.

        Every class must be in one group. Source: cityscapesscripts evalPixelLevelSemanticLabeling.py, getIouScoreForCategory.
        """
        member = torch.zeros(len(groups), len(self.counts), dtype=torch.int64)
        for row, group in zip(member, groups, strict=True):
            row[list(group)] = 1
        matrix = ConfusionMatrix(len(groups))
        matrix.counts = member @ self.counts @ member.T
        return matrix

    @property
    def precision(self) -> Tensor:
        """(classes,) float64 fraction of the pixels predicted as the class that are of it; NaN for a class never predicted."""
        return self.counts.diagonal().double() / self.counts.sum(0)

    @property
    def recall(self) -> Tensor:
        """(classes,) float64 fraction of the pixels of the class that are predicted as it; NaN for a class that never occurs."""
        return self.counts.diagonal().double() / self.counts.sum(1)

    @property
    def dice(self) -> Tensor:
        """(classes,) float64 Dice coefficient, the F1 of the pixels; NaN for a class that neither is nor was predicted."""
        return 2 * self.counts.diagonal().double() / (self.counts.sum(0) + self.counts.sum(1))

    @property
    def iou(self) -> Tensor:
        """(classes,) float64 intersection over union, 0..1; NaN for a class that neither is nor was predicted."""
        hits = self.counts.diagonal().double()
        return hits / (self.counts.sum(0) + self.counts.sum(1) - hits)

    @property
    def miou(self) -> float:
        """Mean IoU of the classes, 0..1, without the NaNs."""
        return self.iou.nanmean().item()

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of the counted pixels that is predicted correctly; NaN if none was counted."""
        return (self.counts.diagonal().sum().double() / self.counts.sum()).item()

    @property
    def mean_accuracy(self) -> float:
        """Mean recall over the classes that occur; NaN if none was counted."""
        return self.recall.nanmean().item()
