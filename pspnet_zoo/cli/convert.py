"""The command `pspnet-zoo convert`."""

from pathlib import Path
from typing import Annotated

import typer

from .terminal import say


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint as its project publishes it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write model.safetensors and config.json to.")],
    like: Annotated[
        str | None,
        typer.Option(show_default="lists the candidates", help="Checkpoint that it is: its name in the zoo, or in its project."),
    ] = None,
) -> None:
    """Convert a checkpoint of another project.

    No code in the file is run.
    """
    from ..upstream.convert import convert

    folder = convert(file, like=like).save_pretrained(output)
    say(f"Wrote {folder}")
