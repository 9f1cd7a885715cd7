"""The command `pspnet-zoo evaluate`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .data.open import open_dataset
from .predict import load
from .terminal import DataOption, DatasetOption, ModelArgument, out, progress_bar
from .weights.files import write_atomically


def evaluate(
    model: ModelArgument,
    data: DataOption,
    dataset: DatasetOption = "camvid",
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Measure a network on a data set: whole pictures, one scale, no flip."""
    from .engine.evaluate import PROTOCOL, evaluate

    network, pictures = load(model), open_dataset(dataset, data, split)
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=len(pictures))
        result = evaluate(network, pictures, lambda done: bar.update(task, completed=done))
    table = Table("class", "IoU", title=f"{model} on {dataset} {split}, {result.images} pictures, {PROTOCOL}")
    for name, iou in result.iou.items():
        table.add_row(name, "-" if iou is None else f"{iou:.4f}")
    table.add_section()
    for name, value in (("mIoU", result.miou), ("pixel accuracy", result.pixel_accuracy), ("loss", result.loss)):
        table.add_row(name, f"{value:.4f}")
    out.print(table)
    if json_file:
        numbers = {"model": model, "dataset": dataset, "split": split, **result.as_json()}
        write_atomically(json_file, (json.dumps(numbers, indent=2) + "\n").encode())
