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
        multilabel: Whether a pixel may be of several classes; each class then has a matrix of its own.

    Attributes:
        counts: (classes, classes) int64; rows are the ground truth, columns the prediction. With `multilabel`, (classes, 2, 2), in
            each of which the second row and column are of the pixels of the class.
    """

    def __init__(self, classes: int, multilabel: bool = False) -> None:
        self.counts = torch.zeros((classes, 2, 2) if multilabel else (classes, classes), dtype=torch.int64)

    def update(self, prediction: Tensor, ground_truth: Tensor) -> None:
        """Count the pixels of one or more images.

        Args:
            prediction: Integer ids of any shape, each below the number of classes; or (..., classes, H, W) of 0 and 1.
            ground_truth: The same of the same shape; 255 is not counted.

        Raises:
            ValueError: If the shapes differ, or an id is not a class.
        """
        if prediction.shape != ground_truth.shape:
            raise ValueError(
                f"The prediction is {tuple(prediction.shape)} and the ground truth {tuple(ground_truth.shape)}; they must be equal"
            )
        classes = len(self.counts)
        if self.counts.ndim == 3:
            for matrix, *planes in zip(self.counts, prediction.unbind(-3), ground_truth.unbind(-3), strict=True):
                one = ConfusionMatrix(2)
                one.update(*planes)
                matrix += one.counts
            return
        counted = ground_truth != IGNORE
        targets, prediction = ground_truth[counted].long(), prediction[counted].long()
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
    def hits(self) -> Tensor:
        """(classes,) int64 pixels of each class that are predicted as it."""
        return self.counts[:, 1, 1] if self.counts.ndim == 3 else self.counts.diagonal()

    @property
    def predicted(self) -> Tensor:
        """(classes,) int64 pixels that are predicted as each class."""
        return self.counts[:, :, 1].sum(1) if self.counts.ndim == 3 else self.counts.sum(0)

    @property
    def occurring(self) -> Tensor:
        """(classes,) int64 pixels of each class in the ground truth."""
        return self.counts[:, 1].sum(1) if self.counts.ndim == 3 else self.counts.sum(1)

    @property
    def precision(self) -> Tensor:
        """(classes,) float64 fraction of the pixels predicted as the class that are of it; NaN for a class never predicted."""
        return self.hits.double() / self.predicted

    @property
    def recall(self) -> Tensor:
        """(classes,) float64 fraction of the pixels of the class that are predicted as it; NaN for a class that never occurs."""
        return self.hits.double() / self.occurring

    @property
    def dice(self) -> Tensor:
        """(classes,) float64 Dice coefficient, the F1 of the pixels; NaN for a class that neither is nor was predicted."""
        return 2 * self.hits.double() / (self.predicted + self.occurring)

    @property
    def iou(self) -> Tensor:
        """(classes,) float64 intersection over union, 0..1; NaN for a class that neither is nor was predicted."""
        return self.hits.double() / (self.predicted + self.occurring - self.hits)

    @property
    def miou(self) -> float:
        """Mean IoU of the classes, 0..1, without the NaNs."""
        return self.iou.nanmean().item()

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of the counted pixels (with `multilabel`, of all classes' together) that is right; NaN if none was counted."""
        right = self.counts.diagonal(dim1=-2, dim2=-1).sum()
        return (right.double() / self.counts.sum()).item()

    @property
    def mean_accuracy(self) -> float:
        """Mean recall over the classes that occur; NaN if none was counted."""
        return self.recall.nanmean().item()
