"""A network against a data set: whole pictures, one scale, no flip."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from ..data.dataset import SegmentationDataset
from ..data.labels import IGNORE
from ..models import PSPNet
from .metrics import ConfusionMatrix

PROTOCOL = "whole image, single scale, no flip"


@dataclass(frozen=True)
class Evaluation:
    """Metrics over a data set."""

    miou: float
    """Mean intersection over union of the classes that occur, 0..1."""
    iou: dict[str, float | None]
    """By class name, 0..1; None for a class that neither occurs nor was predicted."""
    pixel_accuracy: float
    """Fraction of the pixels that count."""
    loss: float
    """Mean cross entropy of the pixels that count, in nats."""
    images: int

    def as_json(self) -> dict[str, Any]:
        """The fields, and the protocol."""
        return {**vars(self), "protocol": PROTOCOL}


@torch.inference_mode()
def evaluate(model: PSPNet, dataset: SegmentationDataset, progress: Callable[[int], None] | None = None) -> Evaluation:
    """Segment every picture at its own size and compare.

    Args:
        model: On the device to run on; left in evaluation mode.
        dataset: Its labels are the model's classes.
        progress: Called with the number of pictures done.

    Raises:
        ValueError: If the classes are not the model's, or no pixel of the data set counts.
    """
    classes = len(dataset.labels)
    if model.config["classes"] != classes:
        raise ValueError(f"The model has {model.config['classes']} classes and the data set {classes}; they must be the same")
    if model.labels is not None and model.labels.names != dataset.labels.names:
        raise ValueError(f"The model's classes are {model.labels.names}, the data set's {dataset.labels.names}")
    device = next(model.parameters()).device
    model.eval().to(memory_format=torch.channels_last)
    confusion, loss = ConfusionMatrix(classes), 0.0
    for index in range(len(dataset)):
        image, truth = dataset[index]
        x = model.preprocess(image[None].to(device)).contiguous(memory_format=torch.channels_last)
        output = model(x)
        logits = output[0] if isinstance(output, tuple) else output
        truth = truth.to(device)
        confusion.update(logits[0].argmax(dim=0), truth)
        loss += F.cross_entropy(logits, truth[None].long(), ignore_index=IGNORE, reduction="sum").item()
        if progress:
            progress(index + 1)
    counted = int(confusion.counts.sum())
    if not counted:
        raise ValueError("Every pixel of the data set is ignored; there is nothing to measure")
    iou = {n: None if math.isnan(v) else v for n, v in zip(dataset.labels.names, confusion.iou.tolist(), strict=True)}
    return Evaluation(confusion.miou, iou, confusion.pixel_accuracy, loss / counted, len(dataset))
