"""The command `pspnet-zoo` and its subcommands.

The modules of the commands import little; what takes seconds, as torch does, is imported when a command runs.
"""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..extras import MissingExtraError
from ..interrupts import SIGNALS, forget_postponed, postpone
from ..storage.errors import WeightsError
from .terminal import LogLines, SectionedCommand, complain

COMMANDS = {
    "predict": "Segment images and videos.",
    "bulk": "Segment millions of images, each exactly once.",
    "train": "Train a network on masks, or on soft labels of other networks.",
    "evaluate": "Measure a network on a dataset, on the GPU if there is one.",
    "compare": "Compare two reports on the same images.",
    "rank": "Rank images by which to label first.",
    "publish": "Publish a checkpoint on the Hugging Face Hub.",
    "demo": "Try models in a page in the browser.",
    "serve": "Segment images over HTTP.",
    "export": "Export a model to a file that runs without this package.",
    "benchmark": "Compare the installed runtimes in time and accuracy.",
    "data": "Import a dataset, and look at it.",
    "list": "List the checkpoints of the zoo, one a line.",
    "convert": "Convert a checkpoint of another project.",
    "info": "Describe a model: its network, labels, numbers and origin.",
}
"""The commands, in the order of `pspnet-zoo --help`, and what it says of them. `NAME` is made by the module `cli.NAME`."""

_MADE_BY = {"data": "app", "list": "list_command"}  # where the module's function is not named as the command is


class _Commands(Mapping[str, Any]):
    """The commands by name. A command's module is imported when that command is asked for, so that the others start at once."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        made = getattr(import_module(f"..{name}", __name__), _MADE_BY.get(name, name))
        if not isinstance(made, typer.Typer):
            function, made = made, typer.Typer(add_completion=False, rich_markup_mode=None)
            made.command(name, cls=SectionedCommand)(function)
        command = typer.main.get_command(made)
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Program(TyperGroup):
    """The group of the commands, whose help imports none of them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": _Commands()})

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=_Program,
    name="pspnet-zoo",
    help="PSPNet on any timm backbone: segment images, train, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes cut the names of options off at 80 columns, and break paths
    context_settings={"max_content_width": 120},  # of help, where the terminal is as wide
)


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
        except KeyboardInterrupt:
            complain(_interrupted())
            sys.exit(128 + (received or [signal.SIGINT])[0])
        except SystemExit as end:
            if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):  # typer ends then without a word
                complain(_interrupted())
            if end.code == 130 and received:  # of a command that was interrupted, by whatever signal
                sys.exit(128 + received[0])
            raise


def _interrupted() -> str:
    at_work = "while no run was at work: there is no new checkpoint, and none was changed"
    return f"Interrupted {at_work}" if sys.argv[1:2] == ["train"] else "Interrupted"


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
    """Make SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, so that a command cleans up; never inside an import.

    Yields:
        The signals received so far. One that is ignored, as `nohup` ignores SIGHUP, stays ignored.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not postpone(number, frame):
            received.append(number)
            raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    replaced = {n: handler for n, handler in handlers.items() if handler in (signal.SIG_DFL, signal.default_int_handler)}
    for number in replaced:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        forget_postponed()
        for number, handler in replaced.items():
            signal.signal(number, handler)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pspnet-zoo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass
