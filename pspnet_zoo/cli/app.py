"""The command `pspnet-zoo` and its subcommands.

The modules of the commands import little; what takes seconds, as torch does, is imported when a command runs.
"""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from .. import __version__
from ..extras import MissingExtraError
from ..storage.errors import WeightsError
from . import data
from .benchmark import benchmark
from .bulk import bulk
from .compare import compare
from .convert import convert
from .demo import demo
from .evaluate import evaluate
from .export import export
from .info import info
from .list import list_command
from .predict import predict
from .publish import publish
from .rank import rank
from .serve import serve
from .terminal import LogLines, SectionedCommand, complain
from .train import train

app = typer.Typer(
    name="pspnet-zoo",
    help="PSPNet on any timm backbone: segment images, train, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes cut the names of options off at 80 columns, and break paths
    context_settings={"max_content_width": 120},  # of help, where the terminal is as wide
)
app.command(cls=SectionedCommand)(predict)
app.command(cls=SectionedCommand)(bulk)
app.command(cls=SectionedCommand)(train)
app.command(cls=SectionedCommand)(evaluate)
app.command(cls=SectionedCommand)(compare)
app.command(cls=SectionedCommand)(rank)
app.command(cls=SectionedCommand)(publish)
app.command(cls=SectionedCommand)(demo)
app.command(cls=SectionedCommand)(serve)
app.command(cls=SectionedCommand)(export)
app.command(cls=SectionedCommand)(benchmark)
app.add_typer(data.app, name="data")
app.command("list", cls=SectionedCommand)(list_command)
app.command(cls=SectionedCommand)(convert)
app.command(cls=SectionedCommand)(info)


_NO_MEMORY = "There is not enough memory; take smaller images, a smaller size or batch, or a machine with more"


_LOG = LogLines(logging.WARNING)


def main() -> None:
    """Run the command; what the user can put right is one line on stderr and exit code 2."""
    with _signals_as_interrupts() as received:
        try:
            _prepare()
            app()
        except (WeightsError, MissingExtraError, ValueError, OSError, FloatingPointError) as error:
            complain(error)
            sys.exit(2)
        except MemoryError as error:
            complain(f"{_NO_MEMORY} ({error})" if str(error) else _NO_MEMORY)
            sys.exit(2)
        except RuntimeError as error:
            if "memory" not in str(error):  # torch's words, on CPUs and GPUs
                raise
            complain(f"{_NO_MEMORY} ({str(error).splitlines()[0]})")
            sys.exit(2)
        except KeyboardInterrupt:  # while torch is imported, too, which takes seconds
            at_work = "while no run was at work: there is no new checkpoint, and none was changed"
            complain(f"Interrupted {at_work}" if sys.argv[1:2] == ["train"] else "Interrupted")
            sys.exit(128 + (received or [signal.SIGINT])[0])
        except SystemExit as end:
            if end.code == 130 and received:  # typer's, for any KeyboardInterrupt
                sys.exit(128 + received[0])
            raise


def _prepare() -> None:
    """Set what holds for the whole process."""
    # PyTorch reads it at its first allocation: in larger pages of memory, feature maps are made in a fifth less time on a CPU
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":  # a name that the encoding of a log lacks must not end the work
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    logging.getLogger("pspnet_zoo").addHandler(_LOG)
    warnings.filterwarnings("ignore", module="PIL")  # they do not name the file; data.images logs those that matter


@contextmanager
def _signals_as_interrupts() -> Iterator[list[int]]:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt, so that a command cleans up as after Ctrl-C.

    Yields:
        The signals received so far. One that is ignored, as `nohup` ignores SIGHUP, stays ignored.
    """
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    replaced = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pspnet-zoo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass
