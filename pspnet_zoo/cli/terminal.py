"""What the commands share: where they write, progress, complaints, and arguments with one meaning everywhere."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..data.layouts import LAYOUTS
from ..inference.exported import format_of
from ..zoo.registry import DEFAULT_MODEL as DEFAULT_MODEL
from ..zoo.registry import find

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)

ModelArgument = Annotated[
    str, typer.Argument(metavar="NAME_OR_PATH", help="A model of the zoo, the folder of a checkpoint, or an exported file.")
]
ModelOption = Annotated[str, typer.Option(help="A model of the zoo, the folder of a checkpoint, or an exported file.")]
PrecisionOption = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="bfloat16 is faster where a processor is made for it.")
]
LayoutOption = Annotated[str | None, typer.Option(help=f"Layout of the data: {', '.join(LAYOUTS)}; by its folders if left out.")]
DatasetOption = Annotated[str, typer.Option(help=f"Layout of the data: {', '.join(LAYOUTS)}.")]
DataOption = Annotated[Path, typer.Option(help="Folder of the data set.", show_default=False)]


def torchrun_process() -> tuple[int, int, int]:
    """This process's number, how many there are, and its number on this machine: 0, 1 and 0 without torchrun."""
    rank, count, local_rank = (int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    return rank, count, local_rank


def check_name(model: str) -> None:
    """Complain about the name of a checkpoint or file before anything large is imported; folders and repositories pass.

    Raises:
        ValueError: If there is none of this name.
        FileNotFoundError: If it is the name of an exported file that is not there.
    """
    if format_of(model) is not None and not Path(model).exists():
        raise FileNotFoundError(f"No file '{model}'")
    if "/" not in model and not Path(model).exists():
        find(model)


def say(text: str, console: Console = out) -> None:
    """A line as it is: no wrapping, no colours, no markup read from names or paths."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def complain(error: Exception | str) -> None:
    """One line on stderr."""
    err.print(f"Error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)


def progress_bar() -> Progress:
    """Description, bar, count, time passed and time left, on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err)
