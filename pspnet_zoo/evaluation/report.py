"""What an evaluation leaves behind: a report for programs, one for people, and the predictions."""

import base64
import hashlib
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
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
from ..inference import draw
from ..inference.scores import class_ids
from ..meta import Labels
from ..models.pspnet import PSPNet
from ..storage.files import weights_digest, write_atomically
from .evaluate import Evaluation

_EXAMPLE_WIDTH = 480  # pixels; a page with six examples stays below 2 MB


def report(evaluation: Evaluation, model: PSPNet, dataset: SegmentationDataset) -> dict[str, Any]:
    """The numbers, and what is needed to get them again, as JSON.

    Nothing in an evaluation is random, so there is no seed; one of the training is in `provenance`.

    Args:
        evaluation: Of the model on the data set.
        model: Its weights are hashed as `save_pretrained` would write them.
        dataset: The names and sizes of its files are hashed, in order, not their content, which would have to be read again.

    Raises:
        OSError: If a file of the data set is gone.
    """
    return {
        **evaluation.as_json(),
        "weights_sha256": weights_digest(model.state_dict()),
        "data_sha256": data_digest(dataset),
        "provenance": model.provenance,
        "versions": {
            "pspnet_zoo": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
        "device": str(next(model.parameters()).device),
    }


def data_digest(dataset: SegmentationDataset) -> str:
    """sha256 over a line "NAME SIZE" for each picture and then each mask, in order: file name without folders, size in bytes."""
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
    """A function that writes the prediction of a picture, given its position and its (H, W) uint8 class ids, as a PNG.

    For Cityscapes it is CITY_SEQUENCE_FRAME_pred_labelIds.png with labelIds (0-33), as the official server and cityscapesScripts
    read it; otherwise STEM_mask.png, whose values are the class ids and whose palette has their colours.

    Raises:
        ValueError: If two pictures would have one name, or a file of the data set would be overwritten.
    """
    official = np.array(dataset.labels.official_ids, np.uint8)
    suffix = "_pred_labelIds.png" if official.size else "_mask.png"
    paths = [folder / (image.stem.removesuffix("_leftImg8bit" if official.size else "") + suffix) for image in dataset.images]
    first: dict[Path, Path] = {}
    inputs = {path.resolve() for path in (*dataset.images, *dataset.masks)}
    for image, path in zip(dataset.images, paths, strict=True):
        if (other := first.setdefault(path, image)) != image:
            raise ValueError(f"The predictions of '{other}' and '{image}' would both be '{path.name}'; rename one")
        if path.resolve() in inputs:
            raise ValueError(f"'{path}' is a file of the data set; choose another folder for the predictions")

    def save(index: int, class_ids: Tensor) -> None:
        mask = class_ids.numpy()
        picture = Image.fromarray(official[mask]) if official.size else draw.indexed(mask, dataset.labels)
        buffer = BytesIO()
        picture.save(buffer, "PNG")
        write_atomically(paths[index], buffer.getvalue())

    return save


@dataclass(frozen=True)
class Example:
    """A picture of the data set beside its ground truth and its prediction."""

    name: str
    miou: float
    """Of this picture alone."""
    views: tuple[Image.Image, Image.Image, Image.Image]
    """The picture, and overlays of the ground truth and of the prediction."""


def worst_and_best(
    model: PSPNet, dataset: SegmentationDataset, evaluation: Evaluation, *, count: int = 3
) -> tuple[list[Example], list[Example]]:
    """The pictures with the lowest mIoU, worst first, and those with the highest, best first; none is in both."""
    scored = [(miou, index) for index, miou in enumerate(evaluation.image_miou) if miou is not None]
    ranked = sorted(scored)
    worst, rest = ranked[:count], ranked[count:]

    def example(miou: float, index: int) -> Example:
        image, truth = dataset[index]
        pixels = image.permute(1, 2, 0).numpy()
        masks = (truth.numpy(), class_ids(model, image[None], evaluation.protocol)[0].cpu().numpy())
        overlays = (draw.overlay(pixels, mask, dataset.labels, 0.6) for mask in masks)
        views = [Image.fromarray(array) for array in (pixels, *overlays)]
        for view in views:
            view.thumbnail((_EXAMPLE_WIDTH, _EXAMPLE_WIDTH))
        return Example(dataset.images[index].name, miou, (views[0], views[1], views[2]))

    return [example(*s) for s in worst], [example(*s) for s in reversed(rest[-count:])]


def html_page(report: dict[str, Any], labels: Labels, worst: Sequence[Example], best: Sequence[Example]) -> str:
    """A page that needs no other file, no network and no script.

    Args:
        report: See the function `report`; "model", "dataset" and "split", where it has them, make the title.
        labels: Of the data set.
        worst: The pictures to show as the worst.
        best: The pictures to show as the best.
    """
    confusion = np.array(report["confusion"])
    title = escape(" · ".join(str(report[key]) for key in ("model", "dataset", "split") if key in report))
    sections = [
        f"<h1>{title}</h1>",
        f"<p>{report['images']} pictures, {escape(report['protocol'])}</p>",
        _numbers(report),
        "<h2>Classes</h2>",
        _class_table(report["iou"], labels, confusion),
        *(["<h2>Categories</h2>", _category_table(report["category_iou"])] if report["category_iou"] else []),
        "<h2>Confusion</h2>",
        "<p>Percent of each true class's pixels (row) by prediction (column); right ones are blue, mistakes red.</p>",
        _confusion_table(labels, confusion),
        *_examples("Worst pictures", worst),
        *_examples("Best pictures", best),
        "<h2>How it was measured</h2>",
        _settings(report),
    ]
    body = "\n".join(sections)
    return f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n{_STYLE}\n{body}\n</html>\n'


_STYLE = """<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2430; max-width: 1120px; margin: 2rem auto; padding: 0 1.5rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.2rem } p { color: #5b6675; margin: .3rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th { font-weight: 500; text-align: left } td.number { text-align: right; padding-left: 1rem }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1rem }
.cards div { background: #f2f5f9; border-radius: 6px; padding: .6rem 1rem } .cards b { display: block; font-size: 1.35rem }
.swatch { display: inline-block; width: .8em; height: .8em; border: 1px solid #0003; margin-right: .5em }
.track { background: #edf0f4; width: 26rem; height: .85rem; margin-left: 1rem } .bar { background: #3b78b8; height: 100% }
.confusion { font-size: 11px } .confusion td { width: 2.6em; height: 2.2em; text-align: center; border: 1px solid #fff }
.confusion th { padding: .2rem .5rem; white-space: nowrap } .confusion tbody th { text-align: right }
.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg) }
.scroll { overflow-x: auto }
figure { margin: 1rem 0 } figure div { display: flex; gap: 6px } figure img { width: calc(33.3% - 4px) }
figcaption { color: #5b6675; overflow-wrap: anywhere }
.settings td, .settings th { padding: .15rem 1rem .15rem 0; vertical-align: top }
.settings td { font-family: ui-monospace, monospace; font-size: 13px; overflow-wrap: anywhere }
</style>"""


def _numbers(report: dict[str, Any]) -> str:
    titles = {
        "miou": "mIoU",
        "category_miou": "category mIoU",
        "pixel_accuracy": "pixel accuracy",
        "mean_accuracy": "mean accuracy",
        "loss": "loss",
    }
    cards = (f"<div>{title}<b>{report[key]:.4f}</b></div>" for key, title in titles.items() if report[key] is not None)
    return f'<div class="cards">{"".join(cards)}</div>'


def _class_table(iou: dict[str, float | None], labels: Labels, confusion: np.ndarray) -> str:
    total = confusion.sum()
    rows = []
    for i, (name, color) in enumerate(zip(labels.names, labels.colors, strict=True)):
        pixels = confusion[i].sum()
        found = confusion[i, i] / pixels if pixels else None
        swatch = f'<span class="swatch" style="background: rgb{tuple(color)}"></span>'
        cells = f"{_bar_cells(iou[name])}{_number_cell(found)}{_number_cell(pixels / total)}"
        rows.append(f"<tr><th>{swatch}{escape(name)}</th>{cells}</tr>")
    heads = '<th>class</th><th></th><td class="number">IoU</td><td class="number">found</td><td class="number">share of pixels</td>'
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _category_table(iou: dict[str, float | None]) -> str:
    rows = (f"<tr><th>{escape(name)}</th>{_bar_cells(value)}</tr>" for name, value in iou.items())
    return f"<table>{''.join(rows)}</table>"


def _bar_cells(value: float | None) -> str:
    bar = f'<td><div class="track"><div class="bar" style="width: {100 * (value or 0):.2f}%"></div></div></td>'
    return bar + _number_cell(value)


def _number_cell(value: float | None) -> str:
    return f'<td class="number">{"-" if value is None else f"{value:.4f}"}</td>'


def _confusion_table(labels: Labels, confusion: np.ndarray) -> str:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    names = [escape(name) for name in labels.names]
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j, share in enumerate(shares[i]):
            color = "59, 120, 184" if i == j else "205, 60, 45"
            dark = "; color: #fff" if share > 0.4 else ""
            text = f"{100 * share:.0f}" if share >= 0.005 else ""
            # small mistakes are to be seen: the square root lifts them
            style = f"background: rgba({color}, {share**0.5 * 0.9:.3f}){dark}"
            cells.append(f'<td style="{style}" title="{name} as {names[j]}: {confusion[i, j]} pixels">{text}</td>')
        rows.append(f"<tr><th>{name}</th>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{name}</th>" for name in names)
    head = f"<thead><tr><td></td>{heads}</tr></thead>"
    return f'<div class="scroll"><table class="confusion">{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _examples(title: str, examples: Sequence[Example]) -> list[str]:
    if not examples:
        return []
    figures = []
    for example in examples:
        images = "".join(
            f'<img alt="{alt}" src="{_data_uri(view)}">'
            for alt, view in zip(("picture", "ground truth", "prediction"), example.views, strict=True)
        )
        figures.append(
            f"<figure><div>{images}</div><figcaption>{escape(example.name)}, mIoU {example.miou:.4f}</figcaption></figure>"
        )
    return [f"<h2>{title}</h2>", "<p>Picture, ground truth, prediction; the mIoU is of this picture alone.</p>", *figures]


def _data_uri(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _settings(report: dict[str, Any]) -> str:
    settings = {
        **{f"protocol: {key}": value for key, value in report["protocol_settings"].items()},
        **{f"version: {key}": value for key, value in report["versions"].items()},
        **{key.replace("_", " "): report[key] for key in ("commit", "device", "weights_sha256", "data_sha256")},
    }
    rows = (f"<tr><th>{escape(key)}</th><td>{escape(str(value))}</td></tr>" for key, value in settings.items() if value is not None)
    return f'<table class="settings">{"".join(rows)}</table>'
