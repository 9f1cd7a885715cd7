"""The command `pspnet-zoo benchmark`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import ModelArgument, check_targets, number_table, out, progress_bar, refuse_idle, say

if TYPE_CHECKING:
    from rich.table import Table

    from ..deployment.benchmark import Comparison

_SIZE = "512x1024"


def benchmark(
    model: ModelArgument,
    size: Annotated[
        str, typer.Option(help="Height and width of the timed image, in pixels; encoders of one size have theirs.")
    ] = _SIZE,
    runtimes: Annotated[
        str | None,
        typer.Option(
            show_default="all that are installed",
            help="Runtimes to compare, separated by commas; ratios are to the first. --runtimes help lists them.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Images for each runtime, after one to warm up.")] = 7,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, show_default="each runtime's own choice", help="CPU threads.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Layout of a dataset to measure mIoU on.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the dataset; its train split calibrates int8.")] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset to measure on.")] = "val",
    calibration: Annotated[Path | None, typer.Option(help="Folder of images for int8, without a dataset.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the measurements to this file.")] = None,
) -> None:
    """Compare the installed runtimes in time and accuracy.

    They take turns in one run. Memory and, on a dataset, mIoU are measured too. If one of --runtimes cannot be measured, the others
    are, and the exit code is 2.
    """
    from ..data.open import open_dataset
    from ..deployment.benchmark import RUNTIMES, compare, parse_size
    from ..storage.files import write_atomically

    if runtimes == "help":
        say("\n".join(f"{name:20}{what}" for name, what in RUNTIMES.items()))
        return
    if runtimes and "int8" not in runtimes:
        refuse_idle(f"is for int8, and --runtimes is {runtimes}; leave one of them out", "calibration")
    if dataset is None and data is None:
        refuse_idle("is the part of a dataset; add --dataset and --data", "split")
    else:
        refuse_idle("is for runs without a dataset, whose train split calibrates int8; leave one of them out", "calibration")
    if (dataset is None) != (data is None):
        raise ValueError("--dataset and --data go together: the layout, and the folder")
    evaluated = open_dataset(dataset, data, split) if dataset and data else None
    calibrated_on = open_dataset(dataset, data, "train").images if dataset and data else calibration
    check_targets(json_file)
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)
        found = compare(
            model,
            parse_size(size),
            names=runtimes.split(",") if runtimes else None,
            rounds=rounds,
            threads=threads,
            calibration=calibrated_on,
            dataset=evaluated,
            progress=lambda text, done, total: bar.update(task, description=text, completed=done, total=total),
        )
    out.print(_table(found, f"{model}, {found.size[0]}x{found.size[1]}"))
    for name, reason in found.left_out.items():
        say(f"{name} was left out: {reason}")
    if json_file:
        write_atomically(json_file, (json.dumps({"model": model, **found.as_json()}, indent=2) + "\n").encode())
        say(f"Wrote {json_file}")
    if runtimes and found.left_out:
        raise typer.Exit(2)


def _table(found: "Comparison", title: str) -> "Table":
    table = number_table("runtime", "build s", "ms", "ratio", "MB", "same class", "mIoU", title=title)
    for row in found.rows:
        table.add_row(
            row.runtime,
            f"{row.build_seconds:.1f}",
            f"{row.milliseconds:.0f}",
            f"{row.ratio:.2f}",
            f"{row.megabytes:.0f}",
            f"{row.same_class:.2%}",
            "-" if row.miou is None else f"{row.miou:.4f}",
        )
    return table
