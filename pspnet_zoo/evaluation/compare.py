"""The difference of two evaluations on the same images, from their reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .details import interval, iou_of, measures, resampled

_SAME = {"data_sha256": "images", "split": "split", "protocol": "protocol", "mapping": "mapping"}
_WITHOUT_INTERVAL = ("category_miou", "loss", "ece", "mean_boundary_f1")


@dataclass(frozen=True)
class Difference:
    """One measure of two reports."""

    name: str
    first: float | None
    second: float | None
    interval: tuple[float, float] | None = None
    """The middle 95 % of the difference, second minus first, over samples of the images; None where that is not known."""

    @property
    def change(self) -> float | None:
        """Second minus first."""
        return None if self.first is None or self.second is None else self.second - self.first


@dataclass(frozen=True)
class ReportComparison:
    """Two reports on the same images."""

    measures: list[Difference]
    classes: list[Difference]
    """IoU by class."""
    images: list[Difference]
    """mIoU by image, the largest losses first."""


def compare_reports(first: Mapping[str, Any], second: Mapping[str, Any]) -> ReportComparison:
    """Compare two reports of `evaluate --json` on the same images, with intervals of the differences.

    An interval is paired: both networks are measured on the same samples of the images, so that what makes images hard for both
    cancels out.

    Raises:
        ValueError: If they are reports of different images, classes, mappings or protocols, or lack the counts of the images.
    """
    for report in (first, second):
        if not isinstance(report, Mapping) or "per_image" not in report:
            raise ValueError("This is no report with counts of images; write it anew by pspnet-zoo evaluate --json")
    for key, what in _SAME.items():
        if first.get(key) != second.get(key):
            raise ValueError(f"The reports differ in their {what}: {first.get(key)} and {second.get(key)}; measure both alike")
    names = list(first["iou"])
    if names != list(second["iou"]):
        raise ValueError(f"The reports have other classes: {', '.join(names)}, and {', '.join(second['iou'])}")
    sums = [resampled(counts_of(report, len(names))) for report in (first, second)]
    before, after = map(measures, sums)
    changes = {name: after[name] - before[name] for name in before}
    without: list[str] = list(_WITHOUT_INTERVAL)
    if isinstance(first["confusion"][0][0], list):  # of multi-label the counts do not give it
        changes.pop("pixel_accuracy")
        without.append("pixel_accuracy")
    iou = [iou_of(s) for s in sums]
    found = [Difference(name, first[name], second[name], _pair(interval(change))) for name, change in changes.items()]
    others = [Difference(name, first.get(name), second.get(name)) for name in without]
    found += [each for each in others if (each.first, each.second) != (None, None)]
    classes = [
        Difference(name, first["iou"][name], second["iou"][name], _pair(interval(change)))
        for name, change in zip(names, (iou[1] - iou[0]).T, strict=True)
    ]
    pairs = zip(first["per_image"], second["per_image"], strict=True)
    images = [Difference(a["name"], a["miou"], b["miou"]) for a, b in pairs]
    images = [image for image in images if image.change is not None]
    return ReportComparison(found, classes, sorted(images, key=lambda image: image.change or 0.0))


def counts_of(report: Mapping[str, Any], classes: int) -> Tensor:
    """(images, classes, 3) int64 of a report, see `Details.counts`."""
    counts = torch.zeros(len(report["per_image"]), classes, 3, dtype=torch.int64)
    for row, image in zip(counts, report["per_image"], strict=True):
        for class_id, found in image["counts"].items():
            row[int(class_id)] = torch.tensor(found)
    return counts


def _pair(limits: list[float] | None) -> tuple[float, float] | None:
    return (limits[0], limits[1]) if limits else None
