"""Curves and example images of a run, for one or more experiment trackers."""

import csv
import importlib
import importlib.util
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from ..data.dataset import SegmentationDataset
from ..evaluation.evaluate import Evaluation
from ..evaluation.report import viewable
from ..inference import draw
from ..inference.scores import class_ids
from ..models.pspnet import PSPNet
from ..storage.files import write_atomically
from .recipes import TRACKERS, Recipe

RECIPE = "recipe.json"
HISTORY = "history.csv"
TRACKED = "trackers.json"
"""The name or id of the run in each tracker, for a run that is resumed."""
_ID = {"wandb": "run.id", "mlflow": "active_run.info.run_id", "trackio": "run.name"}
PROJECT = "pspnet-zoo"
"""The trackers' name for all runs; a run has the name of its folder."""


class Log:
    """The log of a run, written by one process.

    Args:
        folder: Of the run. TensorBoard writes into `tensorboard` there and W&B into `wandb`; MLflow into `mlflow.db` and `mlflow`
            unless MLFLOW_TRACKING_URI is set; Trackio where TRACKIO_DIR says.
        recipe: Written as `recipe.json`, and told the trackers.
        step: Steps done before.
        writes: Whether this process writes.
        trackers: Names of `TRACKERS`.
    """

    def __init__(self, folder: Path, recipe: Recipe, step: int, writes: bool, trackers: Sequence[str] = ("tensorboard",)) -> None:
        self.folder = folder
        known = folder / TRACKED
        ids: dict[str, str] = json.loads(known.read_text()) if writes and step and known.is_file() else {}
        self.trackers = [_started(name, folder, recipe, step, ids) for name in trackers] if writes else []
        self.writes = writes
        if writes:
            write_atomically(folder / RECIPE, (json.dumps(asdict(recipe), indent=2) + "\n").encode())

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.trackers:
            tracker.finish()

    def step(self, step: int, loss: float, rate: float) -> None:
        """Log a training step."""
        for tracker in self.trackers:
            tracker.log({"loss/train": loss, "learning rate": rate}, step=step)

    def scores(self, history: Sequence[Mapping[str, Any]], scores: Evaluation, model: PSPNet, dataset: SegmentationDataset) -> None:
        """Log the last evaluation of a run's history and three predictions, and write the whole history."""
        if not self.writes:
            return
        step = history[-1]["step"]
        write_atomically(self.folder / HISTORY, _csv(history).encode())
        images = {
            f"{dataset.images[index].stem}: ground truth, prediction": _example(model, dataset, index)
            for index in range(min(3, len(dataset)) if self.trackers else 0)
        }
        for tracker in self.trackers:
            tracker.log({f"{name}/val": getattr(scores, name) for name in ("miou", "pixel_accuracy", "loss")}, step=step)
            _log_images(tracker, images, step)


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown or not installed.

    Raises:
        ValueError: It names what to choose or to install.
    """
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"log is '{name}'; it can be {', '.join(TRACKERS)}, or several of them with commas")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"log is '{name}', which is not installed; install it by: pip install {name}")


def _started(name: str, folder: Path, recipe: Recipe, step: int, ids: dict[str, str]) -> Any:
    """A tracker of accelerate, at work on this run: a new one, which joins `ids` and their file, or that of the steps before."""
    tracker_class, run = LOGGER_TYPE_TO_CLASS[name], folder.resolve().name
    if name == "tensorboard":
        tracker = tracker_class("tensorboard", folder, purge_step=step + 1)
    elif name == "wandb":
        again = {"id": ids[name], "resume": "allow"} if name in ids else {}
        tracker = tracker_class(os.environ.get("WANDB_PROJECT", PROJECT), dir=str(folder), name=run, **again)
    elif name == "mlflow":
        mlflow: Any = importlib.import_module("mlflow")
        where = {}
        if "MLFLOW_TRACKING_URI" not in os.environ:  # the experiment is made where it is looked for
            mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
            where = {"logging_dir": (folder.resolve() / "mlflow").as_uri()}
        tracker = tracker_class(PROJECT, run_name=run, run_id=ids.get(name), **where)
    else:
        tracker = tracker_class(PROJECT, name=ids.get(name, run), resume="allow" if name in ids else "never")
    tracker.start()
    if name == "tensorboard":  # where settings would be another run beside this one
        return tracker
    if name not in ids:  # MLflow refuses to change settings, such as the number of steps
        tracker.store_init_configuration({key: str(v) if isinstance(v, tuple) else v for key, v in asdict(recipe).items()})
        ids[name] = attrgetter(_ID[name])(tracker)
        write_atomically(folder / TRACKED, (json.dumps(ids, indent=2) + "\n").encode())
    return tracker


def _log_images(tracker: Any, images: Mapping[str, np.ndarray], step: int) -> None:
    """Log (H, W, 3) uint8 images by name."""
    if tracker.name == "mlflow":
        mlflow: Any = importlib.import_module("mlflow")
        for index, image in enumerate(images.values()):  # its keys are parts of file names
            mlflow.log_image(image, key=f"prediction {index}", step=step)
    elif tracker.name == "trackio":
        trackio: Any = importlib.import_module("trackio")
        tracker.log({name: trackio.Image(image) for name, image in images.items()}, step=step)
    else:
        options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({name: image[None] for name, image in images.items()}, step=step, **options)


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
