"""The command `pspnet-zoo`: what it is made of.

The modules of the commands import little; what takes seconds, as torch does, is imported when a command runs.
"""

import sys
from typing import Annotated

import typer

from .. import __version__
from ..extras import MissingExtraError
from ..storage.errors import WeightsError
from . import data
from .benchmark import benchmark
from .bulk import bulk
from .convert import convert
from .demo import demo
from .evaluate import evaluate
from .export import export
from .info import info
from .list import list_command
from .predict import predict
from .publish import publish
from .terminal import SectionedCommand, complain
from .train import train

app = typer.Typer(
    name="pspnet-zoo",
    help="PSPNet on any timm backbone: segment images, train, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes cut the names of options off at 80 columns, and break paths
)
app.command(cls=SectionedCommand)(predict)
app.command()(bulk)
app.command(cls=SectionedCommand)(train)
app.command()(evaluate)
app.command()(publish)
app.command()(demo)
app.command()(export)
app.command()(benchmark)
app.add_typer(data.app, name="data")
app.command("list")(list_command)
app.command()(convert)
app.command()(info)


def main() -> None:
    """Run the command; what the user can put right is one line on stderr and exit code 2."""
    try:
        app()
    except (WeightsError, MissingExtraError, ValueError, OSError, FloatingPointError) as error:
        complain(error)
        sys.exit(2)
    except KeyboardInterrupt:  # while torch is imported, too, which takes seconds
        complain("Interrupted")
        sys.exit(130)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pspnet-zoo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass
