"""The command `pspnet-zoo convert`."""

from pathlib import Path
from typing import Annotated

import typer

from .terminal import say


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint as its project publishes it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for model.safetensors and config.json.")],
    like: Annotated[
        str | None,
        typer.Option(show_default="says what it could be", help="Which checkpoint it is: a name of the zoo, or the project's own."),
    ] = None,
) -> None:
    """Convert a checkpoint of another project.

    Nothing in the file is run.
    """
    from ..upstream.convert import convert

    folder = convert(file, like=like).save_pretrained(output)
    say(f"Wrote {folder}")
