"""The report of an evaluation as one HTML file without scripts; its template is page.html.j2."""

import base64
import csv
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from ..meta import Labels
from .report import Example

_TEMPLATE = Path(__file__).parent / "page.html.j2"
_CURVES = {"miou": "mIoU on val", "loss": "loss on val", "train_loss": "training loss at these steps"}
_TITLES = {
    "miou": "mIoU",
    "category_miou": "category mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_boundary_f1": "boundary F1",
    "ece": "calibration error",
    "loss": "loss",
}
_OF_ALL = ("miou", "mean_accuracy")  # in every report; None where there is nothing to measure


def html_page(
    report: dict[str, Any],
    labels: Labels,
    worst: Sequence[Example],
    best: Sequence[Example],
    history: Sequence[Mapping[str, float]] = (),
) -> str:
    """The HTML of the page.

    Args:
        report: See the function `report`; "model", "dataset" and "split", where it has them, make the title.
        labels: The classes of the dataset.
        worst: Images with the lowest mIoU.
        best: Images with the highest mIoU.
        history: The evaluations of the training run, see `read_history`; their curves are drawn.
    """
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_TEMPLATE.read_text("utf-8"))
    return template.render(
        title=" · ".join(str(report[key]) for key in ("model", "dataset", "split") if key in report),
        report=report,
        cards=[
            (title, report[key], report.get("intervals", {}).get(key))
            for key, title in _TITLES.items()
            if report.get(key) is not None or key in _OF_ALL
        ],
        classes=_classes(report, labels, np.array(report["confusion"])),
        reliability=report.get("reliability"),
        worst=[_shown(example) for example in worst],
        best=[_shown(example) for example in best],
        settings=_settings(report),
        curves=[_curve(history, key, title) for key, title in _CURVES.items() if sum(key in each for each in history) > 1],
    )


def read_history(model_folder: Path) -> list[dict[str, float]]:
    """The evaluations of the run that a model's folder lies in, from its `history.csv`; none where there is no such file."""
    file = model_folder.parent / "history.csv"
    if not (model_folder.is_dir() and file.is_file()):
        return []
    with file.open(newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    return [{key: float(row[key]) for key in ("step", *_CURVES) if row.get(key)} for row in rows]


def _curve(history: Sequence[Mapping[str, float]], key: str, title: str) -> dict[str, Any]:
    """A curve as points of a 100x40 drawing, with its lowest and highest value."""
    points = [(entry["step"], entry[key]) for entry in history if key in entry]
    low, high = min(value for _, value in points), max(value for _, value in points)
    first, last = points[0][0], points[-1][0]
    drawn = " ".join(
        f"{100 * (step - first) / max(last - first, 1):.2f},{40 - 40 * (value - low) / max(high - low, 1e-12):.2f}"
        for step, value in points
    )
    return {"title": title, "points": drawn, "low": low, "high": high, "steps": (int(first), int(last)), "last": points[-1][1]}


def _classes(report: dict[str, Any], labels: Labels, confusion: np.ndarray) -> list[dict[str, Any]]:
    """A table entry for each class; measures and fractions are 0..1. Of multi-label, no class is predicted as another."""
    if labels.multilabel:
        pixels, counted, predicted = confusion[:, 1].sum(axis=1), confusion.sum(axis=(1, 2)), [[]] * len(labels)
    else:
        pixels, counted = confusion.sum(axis=1), np.full(len(labels), confusion.sum())
        class_fractions = confusion / np.maximum(pixels, 1)[:, None]
        predicted = [
            [_entry(class_fractions[i, j], confusion[i, j], i == j) for j in range(len(labels))] for i in range(len(labels))
        ]
    return [
        {
            "name": name,
            "color": tuple(color),
            **{key: report[key][name] for key in ("iou", "precision", "recall")},
            "boundary_f1": report.get("boundary_f1", {}).get(name),
            "interval": report.get("iou_intervals", {}).get(name),
            "fraction": pixels[i] / max(counted[i], 1),
            "predicted": predicted[i],
        }
        for i, (name, color) in enumerate(zip(labels.names, labels.colors, strict=True))
    ]


def _entry(fraction: float, pixels: int, is_right: bool) -> dict[str, Any]:
    color = "59, 120, 184" if is_right else "205, 60, 45"
    # the square root makes small errors visible
    return {"fraction": fraction, "pixels": pixels, "color": f"{color}, {fraction**0.5 * 0.9:.3f}"}


def _shown(example: Example) -> dict[str, Any]:
    views = zip(("image", "ground truth", "prediction", "errors"), map(_data_uri, example.views), strict=True)
    return {"name": example.name, "miou": example.miou, "confusions": ", ".join(example.confusions), "images": list(views)}


def _data_uri(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _settings(report: dict[str, Any]) -> list[tuple[str, Any]]:
    settings = {
        **{f"protocol: {key}": value for key, value in report["protocol_settings"].items()},
        **{f"version: {key}": value for key, value in report["versions"].items()},
        **{key.replace("_", " "): report[key] for key in ("commit", "device", "weights_sha256", "data_sha256")},
        **{key.replace("_", " "): report.get(key) for key in ("mapping", "threshold", "model_precision")},
    }
    return [(key, value) for key, value in settings.items() if value is not None]
