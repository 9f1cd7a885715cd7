"""Images without labels in the order in which labels would help: where the network is unsure, and what it has not met yet.

Sources: Settles 2009, "Active Learning Literature Survey", section 3.1 (entropy, margin); Sener and Savarese 2018, "Active Learning
for Convolutional Neural Networks: A Core-Set Approach" (arXiv 1708.00489), algorithm 1 (the farthest image next).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..inference.scores import SegmentationModel, class_scores, decided, decision_of
from ..models.pspnet import PSPNet

Criterion = Literal["both", "uncertainty", "novelty"]
_SIDE = 256  # pixels of an image's longer side, for its features


@dataclass(frozen=True)
class Uncertainty:
    """Measures of how unsure a network is of an image; means over its pixels, 0 to 1."""

    entropy: float
    """Entropy of the class probabilities, as a fraction of the largest."""
    margin: float
    """1 minus the distance of the two largest probabilities."""
    disagreement: float
    """Fraction of the pixels that get another class in the mirrored image."""


def check_measurable(model: SegmentationModel) -> None:
    """Refuse a model whose scores do not say how unsure it is.

    Raises:
        ValueError: If it gives ids alone.
    """
    if model.activation in ("argmax", "argmax2d"):
        raise ValueError(
            "The model gives ids and no probabilities, by which it would be equally sure of every image; rank by the network that "
            "it was exported from, or export that with --output logits"
        )


@torch.inference_mode()
def uncertainty_of(model: SegmentationModel, image: Tensor) -> tuple[Uncertainty, Tensor]:
    """Measure how unsure a network is of an image, (C, H, W) as it reads it, and its (H, W) ids."""
    size = (image.shape[-2], image.shape[-1])
    scores = class_scores(model, image[None])
    decision = decision_of(model)
    if decision.multilabel:
        raise ValueError("Ranking measures how unsure one class a pixel is, and the model is multi-label; label images by chance")
    ids, mirrored = (decided(s, size, decision)[0] for s in (scores, class_scores(model, image[None].flip(-1)).flip(-1)))
    probabilities = scores.softmax(1)
    entropy = -(probabilities * scores.log_softmax(1)).sum(1).mean().item() / math.log(scores.shape[1])
    first, second = probabilities.topk(2, dim=1).values.unbind(1)
    return Uncertainty(entropy, 1 - (first - second).mean().item(), (ids != mirrored).double().mean().item()), ids


@torch.inference_mode()
def features_of(network: PSPNet, image: Tensor) -> Tensor:
    """(C,) float32 of length 1: the encoder's last features, averaged over an image, (C, H, W) as the network reads it."""
    height, width = image.shape[-2:]
    factor = min(_SIDE / max(height, width), 1)
    size = network.image_size or (max(round(height * factor), 1), max(round(width * factor), 1))
    x = F.interpolate(image[None].float().to(network.device), size=size, mode="bilinear", antialias=True)
    features: Any = network.encoder(network.preprocess.normalize(x).to(network.dtype))
    return F.normalize(features[-1].float().mean((2, 3))[0], dim=0).cpu()


def rank(
    uncertainties: Sequence[Uncertainty], features: Tensor | None, known: Tensor | None = None, *, by: Criterion = "both"
) -> list[tuple[int, float | None]]:
    """The positions of the images, the one to label first at the head, each with its novelty when it was chosen.

    The next image is always the one with the largest product of its uncertainty, the mean of its ranks in the three measures, and
    its novelty, the distance of its features to the nearest image that has labels or was chosen before. "uncertainty" and
    "novelty" take one of the two.

    Args:
        uncertainties: Of each image.
        features: (images, C), see `features_of`; None where there are none, as of exported files.
        known: (n, C) features of images with labels.
        by: The criterion.

    Raises:
        ValueError: If the criterion needs features and there are none.
    """
    if features is None and by != "uncertainty":
        raise ValueError(f"by is '{by}', which needs the features of a network, and an exported file has none; use 'uncertainty'")
    unsure = _mean_rank(uncertainties)
    if features is None or by == "uncertainty":
        return [(int(i), None) for i in unsure.argsort(descending=True, stable=True)]
    if by == "novelty":
        unsure = torch.ones_like(unsure)
    # without labels at the beginning, an image is as new as it is far from the mean of all
    start = known if known is not None and len(known) else F.normalize(features.mean(0, keepdim=True), dim=1)
    novelty = (1 - features @ start.T).amin(1).clamp(min=0).double()
    order, left = [], torch.ones(len(features), dtype=torch.bool)
    for _ in range(len(features)):
        chosen = int((unsure * (novelty + 1e-9)).where(left, -1.0).argmax())
        order.append((chosen, float(novelty[chosen])))
        left[chosen] = False
        novelty = torch.minimum(novelty, (1 - features @ features[chosen]).clamp(min=0).double())
    return order


def _mean_rank(uncertainties: Sequence[Uncertainty]) -> Tensor:
    """(n,) float64, above 0 up to 1: the mean over the measures of the fraction of images that are at most as unsure."""
    measures = [[getattr(u, name) for u in uncertainties] for name in ("entropy", "margin", "disagreement")]
    columns = torch.tensor(measures, dtype=torch.float64)  # (3, n)
    # places in a sorted column take memory for n numbers; comparing every pair takes it for n * n
    ranks = torch.searchsorted(columns.sort(dim=1).values, columns, right=True)
    return (ranks.double() / len(uncertainties)).mean(0)
