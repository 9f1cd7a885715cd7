"""The command `pspnet-zoo benchmark`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import ModelArgument, number_table, out, progress_bar, say

if TYPE_CHECKING:
    from rich.table import Table

    from ..deployment.benchmark import Measured

_SIZE = "512x1024"


def benchmark(
    model: ModelArgument,
    size: Annotated[str, typer.Option(help="Height and width of the made-up picture that is timed, in pixels.")] = _SIZE,
    engines: Annotated[
        str | None,
        typer.Option(
            show_default="all that are installed",
            help="Some of them, by commas, the first to compare with; --engines help lists them.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Pictures for each engine, which take turns; one more to warm up.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, show_default="each runtime's own choice", help="Of the CPU.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Layout of a data set, to measure each engine's mIoU.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data set; its train split calibrates int8.")] = None,
    split: Annotated[str, typer.Option(help="Of the data set.")] = "val",
    calibration: Annotated[Path | None, typer.Option(help="Folder of pictures for int8, where there is no data set.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
) -> None:
    """Compare the engines that are installed, in time and precision.

    They take turns in one run; memory and, on a data set, mIoU are measured too.
    """
    from ..data.open import open_dataset
    from ..deployment.benchmark import ENGINES, compare, parse_size
    from ..storage.files import write_atomically

    if engines == "help":
        say("\n".join(f"{name:20}{what}" for name, what in ENGINES.items()))
        return
    if (dataset is None) != (data is None):
        raise ValueError("--dataset and --data go together: the layout, and the folder")
    evaluated = open_dataset(dataset, data, split) if dataset and data else None
    calibrated_on = open_dataset(dataset, data, "train").images if dataset and data else calibration
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)
        found = compare(
            model,
            parse_size(size),
            names=engines.split(",") if engines else None,
            rounds=rounds,
            threads=threads,
            calibration=calibrated_on,
            dataset=evaluated,
            progress=lambda text, done, total: bar.update(task, description=text, completed=done, total=total),
        )
    out.print(_table(found, f"{model}, {size}"))
    for name, reason in found.left_out.items():
        say(f"{name} was left out: {reason}")
    if json_file:
        write_atomically(json_file, (json.dumps({"model": model, **found.as_json()}, indent=2) + "\n").encode())
        say(f"Wrote {json_file}")


def _table(found: "Measured", title: str) -> "Table":
    table = number_table("engine", "build s", "ms", "ratio", "MB", "same class", "mIoU", title=title)
    for row in found.rows:
        table.add_row(
            row.engine,
            f"{row.build_seconds:.1f}",
            f"{row.milliseconds:.0f}",
            f"{row.ratio:.2f}",
            f"{row.megabytes:.0f}",
            f"{row.same_class:.2%}",
            "-" if row.miou is None else f"{row.miou:.4f}",
        )
    return table
