"""Curves and example images of a run, for TensorBoard."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from ..data.dataset import SegmentationDataset
from ..evaluation.evaluate import Evaluation
from ..evaluation.report import viewable
from ..inference import draw
from ..inference.scores import class_ids
from ..models.pspnet import PSPNet
from ..storage.files import write_atomically
from .recipes import Recipe

RECIPE = "recipe.json"
HISTORY = "history.csv"


class Log:
    """The log of a run, written by one process."""

    def __init__(self, folder: Path, recipe: Recipe, step: int, writes: bool) -> None:
        self.folder = folder
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1) if writes else None
        if writes:
            write_atomically(folder / RECIPE, (json.dumps(asdict(recipe), indent=2) + "\n").encode())

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer:
            self.writer.close()

    def step(self, step: int, loss: float, rate: float) -> None:
        if self.writer:
            self.writer.add_scalar("loss/train", loss, step)
            self.writer.add_scalar("learning rate", rate, step)

    def scores(self, history: Sequence[Mapping[str, Any]], scores: Evaluation, model: PSPNet, dataset: SegmentationDataset) -> None:
        """Log the last evaluation of a run's history, and write the whole history."""
        if self.writer:
            step = history[-1]["step"]
            write_atomically(self.folder / HISTORY, _csv(history).encode())
            for name in ("miou", "pixel_accuracy", "loss"):
                self.writer.add_scalar(f"{name}/val", getattr(scores, name), step)
            for index in range(min(3, len(dataset))):
                name = f"{dataset.images[index].stem}: ground truth, prediction"
                self.writer.add_image(name, _example(model, dataset, index), step, dataformats="HWC")


def _csv(history: Sequence[Mapping[str, Any]]) -> str:
    """A row for each evaluation, and a column for the IoU of each class."""
    rows = [{**entry, **{f"iou {name}": value for name, value in entry["iou"].items()}} for entry in history]
    text = io.StringIO()
    writer = csv.DictWriter(text, [key for key in rows[0] if key != "iou"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _example(model: PSPNet, dataset: SegmentationDataset, index: int) -> np.ndarray:
    """(H, 2 W, 3) uint8: the image under its ground truth, and under the prediction."""
    image, ground_truth = dataset[index]
    prediction = class_ids(model, image[None])[0].cpu()
    pixels = viewable(image, model.preprocess)
    return np.concatenate([draw.overlay(pixels, mask.numpy(), dataset.labels, 0.5) for mask in (ground_truth, prediction)], axis=1)
