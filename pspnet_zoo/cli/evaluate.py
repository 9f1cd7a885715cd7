"""The command `pspnet-zoo evaluate`."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..inference.protocols import PROTOCOLS
from .runtime import open_for_protocol
from .terminal import (
    DataOption,
    LayoutOption,
    ModelArgument,
    PrecisionOption,
    cell,
    check_name,
    check_targets,
    number_table,
    out,
    progress_bar,
    say,
    torchrun_device,
    torchrun_process,
)

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress
    from rich.table import Table

    from ..evaluation.evaluate import Evaluation


def evaluate(
    model: ModelArgument,
    data: DataOption,
    dataset: LayoutOption = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    protocol: Annotated[str, typer.Option(help=f"{', '.join(PROTOCOLS)}; ms is multi-scale and flip.")] = "whole",
    mapping: Annotated[
        Path | None,
        typer.Option(help="classes.json that maps the classes of the model and of the dataset to those that are measured."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    html_file: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page of measures, with the images that fail and curves of the run, to this file."),
    ] = None,
    tune_threshold: Annotated[
        bool,
        typer.Option(
            "--tune-threshold",
            help="First choose the threshold of a two-class network, or those of the classes of a multi-label one, with the best "
            "Dice on val, and store them in its folder.",
        ),
    ] = False,
    precision: PrecisionOption = None,
    save_predictions: Annotated[
        Path | None, typer.Option(help="Write each prediction into this folder; for Cityscapes as its server wants them.")
    ] = None,
) -> None:
    """Measure a network on a dataset, on the GPU if there is one.

    Started by torchrun, the processes divide the images among them and give the same numbers as one. A split without
    labels can only be predicted, with --save-predictions.
    """
    check_name(model)
    if not data.exists():
        raise FileNotFoundError(f"No folder '{data}'")
    check_targets(json_file, html_file)
    from ..data.layouts.classes import read_class_file
    from ..data.open import guess_layout, open_dataset
    from ..evaluation.evaluate import evaluate as measure
    from ..evaluation.evaluate import predict_all
    from ..evaluation.mapping import MappedDataset, MappedNetwork
    from ..evaluation.page import html_page, read_history
    from ..evaluation.report import prediction_saver, report, worst_and_best

    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is '{protocol}'; it can be {', '.join(PROTOCOLS)}")
    images = open_dataset(dataset := dataset or guess_layout(data), data, split)
    classes = read_class_file(mapping) if mapping else None
    if classes:
        images = MappedDataset(images, classes)
    if not images.masks and (json_file or html_file or not save_predictions):
        raise ValueError(f"{dataset} {split} has no ground truth to compare with; only --save-predictions is possible")
    save = prediction_saver(images, save_predictions) if save_predictions else None
    if tune_threshold:
        _check_tuning(model, split, mapping, bool(images.masks))
    bar = progress_bar()
    with _processes() as (rank, count, device):
        network = open_for_protocol(model, protocol, device=device, precision=precision)
        if classes:
            network = cast(Any, MappedNetwork(network, classes))  # it passes the other attributes on
        bar.disable = rank > 0
        if tune_threshold:
            _tune(network, Path(model), images, protocol, bar)
        task = bar.add_task("evaluating", total=len(range(rank, len(images), count)))

        def progress(done: int) -> None:
            bar.update(task, completed=done)

        with bar:
            if not images.masks and save:
                predict_all(network, images, PROTOCOLS[protocol], save, progress=progress)
                result = None
            else:
                details = bool(json_file or html_file)
                result = measure(network, images, PROTOCOLS[protocol], details=details, save=save, progress=progress)
    if rank > 0:
        return
    if result and (json_file or html_file):
        numbers = {"model": model, "dataset": dataset, "split": split, **report(result, network, images)}
        if json_file:
            _write(json_file, json.dumps(numbers, indent=2, allow_nan=False) + "\n")
        if html_file:
            shown = worst_and_best(network, images, result)
            _write(html_file, html_page(numbers, images.labels, *shown, read_history(Path(model))))
    if result:  # last: what fails in printing has lost nothing
        say(f"{model} on {dataset} {split}, {result.images} images:\n{result.protocol}")
        out.print(_table(result))
    if save_predictions:
        say(f"Wrote {len(images)} predictions to {save_predictions}")


def _write(file: Path, text: str) -> None:
    from ..storage.files import write_atomically

    write_atomically(file, text.encode())
    say(f"Wrote {file}")


def _check_tuning(model: str, split: str, mapping: Path | None, has_masks: bool) -> None:
    """Refuse --tune-threshold where it cannot be stored, or would be chosen on what is to be measured."""
    from ..model_source import Folder, parse_weights

    if split == "test" or not has_masks:
        raise ValueError(f"--tune-threshold on {split} would leave nothing to measure on; choose it on val")
    if not isinstance(parse_weights(model), Folder):
        raise ValueError(f"--tune-threshold stores the threshold with the weights, and '{model}' is no folder of a checkpoint")
    if mapping:
        raise ValueError("--tune-threshold is of the model's own classes; leave out --mapping")
    if torchrun_process()[1] > 1:
        raise ValueError("--tune-threshold runs in one process; leave out torchrun")


def _tune(network: Any, folder: Path, images: Any, protocol: str, bar: "Progress") -> None:
    """Choose the threshold, use it, and store it."""
    from ..evaluation.thresholds import tune_threshold
    from ..storage.files import read_config, update_config

    saved = read_config(folder).get("weights_sha256")
    task = bar.add_task("choosing the threshold", total=len(images))
    with bar:
        found = tune_threshold(network, images, PROTOCOLS[protocol], progress=lambda done: bar.update(task, completed=done))
    if read_config(folder).get("weights_sha256") != saved:
        raise ValueError(
            f"The weights in '{folder}' were replaced while their threshold was chosen; nothing was stored. Call again"
        )
    network.network.threshold = found.threshold
    update_config(folder, threshold=found.threshold)
    if isinstance(found.threshold, tuple):
        each = ", ".join(f"{name} {value:g}" for name, value in zip(images.labels.names, found.threshold, strict=True))
        what = f"Thresholds {each}: mean Dice"
    else:
        what = f"Threshold {found.threshold:g}: Dice"
    say(f"{what} {found.dice:.4f}, and {found.dice_of_half:.4f} at 0.5; stored in {folder}")


def _table(result: "Evaluation") -> "Table":

    table = number_table("class", "IoU", "Dice", "precision", "recall")
    for name in result.iou:
        columns = (result.iou, result.dice, result.precision, result.recall)
        table.add_row(cell(name), *("-" if (v := values[name]) is None else f"{v:.4f}" for values in columns))
    table.add_section()
    for name, iou in (result.category_iou or {}).items():
        table.add_row(cell(name), "-" if iou is None else f"{iou:.4f}")
    table.add_section()
    numbers = {
        "mIoU": result.miou,
        "category mIoU": result.category_miou,
        "pixel accuracy": result.pixel_accuracy,
        "mean accuracy": result.mean_accuracy,
        "loss": result.loss,
    }
    for name, value in numbers.items():
        if value is not None:
            table.add_row(name, "-" if math.isnan(value) else f"{value:.4f}")
    return table


@contextmanager
def _processes() -> "Iterator[tuple[int, int, torch.device]]":
    """The rank of this process, the number of processes, and its device; several that torchrun started are connected meanwhile."""
    import torch

    rank, count, _ = torchrun_process()
    device = torchrun_device()
    if count == 1:
        yield 0, 1, device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield rank, count, device
    finally:
        torch.distributed.destroy_process_group()
