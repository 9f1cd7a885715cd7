"""The results of an evaluation: a report, the predictions, and the worst and best images."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor

from .. import __version__
from ..data.dataset import SegmentationDataset
from ..data.images import encode_class_masks
from ..inference import draw
from ..inference.scores import SegmentationModel, class_ids, decision_of
from ..meta import IGNORE, Preprocess
from ..models.pspnet import PSPNet
from ..runtimes.open import Runtime
from ..storage.files import weights_digest, write_atomically
from .evaluate import Evaluation

_EXAMPLE_WIDTH = 360  # pixels; a page with 23 examples of 4 views stays below 4 MB


def report(evaluation: Evaluation, model: PSPNet | Runtime, dataset: SegmentationDataset) -> dict[str, Any]:
    """The numbers, and what is needed to reproduce them, as JSON.

    Nothing in an evaluation is random, so there is no seed; one of the training is in `provenance`.

    Args:
        evaluation: The evaluation of the model on the dataset.
        model: Its weights are hashed, as `save_pretrained` would write them or as an exported file has them. A `MappedNetwork` has
            its mapping in the report.
        dataset: The names and sizes of its files are hashed, in order, not their content, which would have to be read again.

    Raises:
        OSError: If a file of the dataset is gone.
    """
    return {
        **evaluation.as_json(),
        **({"per_image": _per_image(evaluation, evaluation.details.counts, dataset)} if evaluation.details else {}),
        "weights_sha256": weights_digest(model.state_dict()) if isinstance(model, PSPNet) else model.weights_sha256,
        "data_sha256": data_digest(dataset),
        "mapping": getattr(model, "mapping", None),
        "threshold": _threshold(model),
        "model_precision": _precision(model),  # "precision" is that of the classes
        "provenance": model.provenance,
        "versions": {
            "pspnet_zoo": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
        "device": str(model.device),
    }


def _threshold(model: PSPNet | Runtime) -> float | tuple[float, ...] | None:
    """The threshold that the ids obey; that of a file of ids is inside it."""
    spec = getattr(model, "spec", None)
    return spec.threshold if spec and spec.output == "ids" else decision_of(model).threshold


def _precision(model: PSPNet | Runtime) -> str:
    """Number type that an exported file was exported in, which its runtime may widen; of others that of autocast or the weights."""
    spec = getattr(model, "spec", None)
    chosen = spec.precision if spec else getattr(model, "precision", None)
    return chosen or str(model.dtype).removeprefix("torch.")


def _per_image(evaluation: Evaluation, counts: Tensor, dataset: SegmentationDataset) -> list[dict[str, Any]]:
    """Name and mIoU of each image, and [correct, predicted, true] pixels of the classes that it has, by id."""
    return [
        {
            "name": path.name,
            "miou": miou,
            "counts": {str(class_id): row for class_id, row in enumerate(image.tolist()) if any(row)},
        }
        for path, miou, image in zip(dataset.images, evaluation.image_miou, counts, strict=True)
    ]


def data_digest(dataset: SegmentationDataset) -> str:
    """sha256 over a line "NAME SIZE" for each image and then each mask, in order: file name without folders, size in bytes."""
    digest = hashlib.sha256()
    for path in (*dataset.images, *dataset.masks):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def commit() -> str | None:
    """The commit of the checkout that this package runs from, with "-dirty" if files differ; None if it is installed or unknown."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # an installed package may lie in a checkout of something else
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def prediction_saver(dataset: SegmentationDataset, folder: Path) -> Callable[[int, Tensor], None]:
    """A function that writes the prediction of an image, given its position and its (H, W) uint8 class ids, as a PNG.

    Masks of multi-label are STEM_mask.tif, as `Prediction.save` writes them.

    For Cityscapes it is CITY_SEQUENCE_FRAME_pred_labelIds.png with labelIds (0-33), as the official server and cityscapesScripts
    read it; otherwise STEM_mask.png, whose values are the class ids and whose palette has their colours.

    Raises:
        ValueError: If two images would have one name, or the folder is one of the dataset.
    """
    official = np.array(dataset.labels.official_ids, np.uint8)
    suffix = "_pred_labelIds.png" if official.size else "_mask.tif" if dataset.labels.multilabel else "_mask.png"
    paths = [folder / (image.stem.removesuffix("_leftImg8bit" if official.size else "") + suffix) for image in dataset.images]
    if os.path.realpath(folder) in {os.path.dirname(os.path.realpath(path)) for path in (*dataset.images, *dataset.masks)}:
        raise ValueError(f"'{folder}' is a folder of the dataset; choose another one for the predictions")
    first: dict[Path, Path] = {}
    for image, path in zip(dataset.images, paths, strict=True):
        if (other := first.setdefault(path, image)) != image:
            raise ValueError(f"The predictions of '{other}' and '{image}' would both be '{path.name}'; rename one")

    def save(index: int, class_ids: Tensor) -> None:
        mask = class_ids.numpy()
        if mask.ndim == 3:
            write_atomically(paths[index], encode_class_masks(mask))
            return
        rendered = Image.fromarray(official[mask]) if official.size else draw.indexed(mask, dataset.labels)
        buffer = BytesIO()
        rendered.save(buffer, "PNG")
        write_atomically(paths[index], buffer.getvalue())

    return save


def viewable(image: Tensor, preprocess: Preprocess) -> np.ndarray:
    """(H, W, 3) uint8 to look at: RGB of 8 bits as it is; of other images the first three bands, or the first, near their mean."""
    if image.dtype == torch.uint8 and image.shape[0] == 3:
        return image.permute(1, 2, 0).numpy()
    normalised = preprocess(image)[[0, 1, 2] if image.shape[0] > 2 else [0, 0, 0]]
    return ((normalised + 2) / 4 * 255).clamp(0, 255).byte().permute(1, 2, 0).numpy()  # two standard deviations about the mean


@dataclass(frozen=True)
class Example:
    """An image of the dataset beside its ground truth and its prediction."""

    name: str
    miou: float
    """mIoU of this image alone."""
    views: tuple[Image.Image, ...]
    """The image, overlays of the ground truth and of the prediction, and the wrong pixels in red."""
    confusions: tuple[str, ...]
    """The most frequent errors in words, at most three."""


def worst_and_best(
    model: SegmentationModel, dataset: SegmentationDataset, evaluation: Evaluation, *, count: int = 20, best: int = 3
) -> tuple[list[Example], list[Example]]:
    """The `count` images with the lowest mIoU, worst first, and the `best` ones with the highest, best first; none is in both."""
    scored = [(miou, index) for index, miou in enumerate(evaluation.image_miou) if miou is not None]
    ranked = sorted(scored)
    worst, rest = ranked[:count], ranked[count:]

    def example(miou: float, index: int) -> Example:
        image, ground_truth = dataset[index]
        pixels = viewable(image, model.preprocess)
        masks = (ground_truth.numpy(), class_ids(model, image[None], evaluation.protocol)[0].cpu().numpy())
        overlays = (draw.overlay(pixels, mask, dataset.labels, 0.6) for mask in masks)
        views = [Image.fromarray(array) for array in (pixels, *overlays, errors_shown(pixels, *masks))]
        for view in views:
            view.thumbnail((_EXAMPLE_WIDTH, _EXAMPLE_WIDTH))
        return Example(dataset.images[index].name, miou, tuple(views), confusions_of(*masks, dataset.labels.names))

    return [example(*s) for s in worst], [example(*s) for s in reversed(rest[-best:] if best else [])]


def errors_shown(pixels: np.ndarray, ground_truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the image in pale gray, wrong pixels in red, and ignored ones in black.

    Of (K, H, W) masks, a pixel is wrong if it is in any class, and ignored if it is in all.
    """
    pale = np.repeat(160 + pixels.mean(axis=2, keepdims=True) * (95 / 255), 3, axis=2).astype(np.uint8)
    ignored = ground_truth == IGNORE
    wrong = (ground_truth != prediction) & ~ignored
    pale[wrong if wrong.ndim == 2 else wrong.any(axis=0)] = (205, 30, 30)
    pale[ignored if ignored.ndim == 2 else ignored.all(axis=0)] = 0
    return pale


def confusions_of(ground_truth: np.ndarray, prediction: np.ndarray, names: Sequence[str], most: int = 3) -> tuple[str, ...]:
    """The most frequent errors of an image, "car as road 4.2 %" of its pixels that count; of multi-label "car missed 4.2 %"."""
    counted = ground_truth != IGNORE
    if counted.ndim == 3:
        wrong = [
            (((truth != own) & (truth == value)).sum() / max(known.sum(), 1), f"{name} {what}")
            for name, truth, own, known in zip(names, ground_truth, prediction, counted, strict=True)
            for value, what in ((1, "missed"), (0, "wrongly found"))
        ]
        return tuple(f"{text} {part:.1%}" for part, text in sorted(wrong, key=lambda each: -each[0])[:most] if part)
    pairs = ground_truth[counted].astype(np.int64) * len(names) + prediction[counted]
    counts = np.bincount(pairs, minlength=len(names) ** 2).reshape(len(names), -1)
    wrong = counts * (1 - np.eye(len(names), dtype=np.int64))
    found = [divmod(int(i), len(names)) for i in np.argsort(-wrong, axis=None, kind="stable")[:most]]
    return tuple(f"{names[t]} as {names[p]} {wrong[t, p] / counts.sum():.1%}" for t, p in found if wrong[t, p])
