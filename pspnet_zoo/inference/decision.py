"""The step from scores to classes: one class a pixel, or several (multi-label)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NEARLY = 1e-7
"""Smallest distance from 0 and 1 at which a float32 probability has finite log-odds."""


@dataclass(frozen=True)
class Decision:
    """The rule by which the classes of a pixel follow from its scores: the only place that tells one class a pixel from several."""

    multilabel: bool = False
    """Whether a pixel may be of several classes or none: each class is then decided for itself, by its sigmoid."""
    threshold: float | tuple[float, ...] | None = None
    """Probability above which a pixel has id 1 of two; with `multilabel`, one a class. None for the most probable class, or 0.5."""

    def probabilities(self, scores: Tensor) -> Tensor:
        """(N, C, ...) probabilities of 0 to 1; their sum is 1 unless `multilabel`."""
        return scores.sigmoid() if self.multilabel else scores.softmax(dim=1)

    def scores(self, probabilities: Tensor) -> Tensor:
        """(N, C, ...) finite scores of probabilities."""
        if self.multilabel:
            return probabilities.logit(eps=NEARLY)
        return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log_()

    def shifted(self, scores: Tensor) -> Tensor:
        """(N, C, h, w) scores whose argmax are the ids; with `multilabel`, those above 0 are of the class.

        Raises:
            ValueError: If the threshold is for another number of classes.
        """
        if self.threshold is None:
            return scores
        least = self.threshold if isinstance(self.threshold, tuple) else (0.5, self.threshold)
        if scores.shape[1] != len(least):
            raise ValueError(
                f"threshold is {self.threshold}, which is for {'two' if len(least) == 2 else len(least)} classes, and there are "
                f"{scores.shape[1]}; set it to None"
            )
        return scores - scores.new_tensor([math.log(t / (1 - t)) for t in least]).view(1, -1, 1, 1)

    def __call__(self, scores: Tensor) -> Tensor:
        """(N, h, w) int64 ids of (N, C, h, w) scores; with `multilabel`, (N, C, h, w) bool."""
        shifted = self.shifted(scores)
        return shifted > 0 if self.multilabel else shifted.argmax(dim=1)
