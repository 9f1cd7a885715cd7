"""Parts that the commands share: output, progress, complaints, help, and arguments with one meaning everywhere."""

import errno
import logging
import os
import re
import textwrap
import time
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from unicodedata import category

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from rich.theme import Theme
from typer.core import TyperCommand

from ..data.layouts.names import LAYOUTS
from ..model_source import parse_weights
from ..storage.errors import message_of
from ..zoo.registry import DEFAULT_MODEL as DEFAULT_MODEL

if TYPE_CHECKING:
    import torch

_THEME = Theme(dict.fromkeys(("progress.elapsed", "progress.remaining"), "none"))  # rich's yellow is lost on white
_SECONDS_A_LINE = 15  # of progress where there is no terminal

out = Console(emoji=False, theme=_THEME)
err = Console(stderr=True, emoji=False, theme=_THEME)

ModelArgument = Annotated[
    str, typer.Argument(metavar="NAME_OR_PATH", help="A model of the zoo, the folder of a checkpoint, or an exported file.")
]
ModelOption = Annotated[str, typer.Option(help="A model of the zoo, the folder of a checkpoint, or an exported file.")]
PrecisionOption = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(show_default="that of the model", help="bfloat16 is faster where a processor is made for it."),
]
LayoutOption = Annotated[
    str | None, typer.Option(show_default="told by its folders", help=f"Layout of the data: {', '.join(LAYOUTS)}.")
]
DataOption = Annotated[Path, typer.Option(help="Folder of the dataset.", show_default=False)]


_TYPED: ContextVar[frozenset[str]] = ContextVar("typed", default=frozenset())


class SectionedCommand(TyperCommand):
    """A command whose help has a heading for each `rich_help_panel`, which typer knows only with rich's boxes.

    It notes which options were typed, for `refuse_idle`.
    """

    def invoke(self, ctx: Any) -> Any:
        _TYPED.set(frozenset(name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"))
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            panel = getattr(parameter, "rich_help_panel", None)
            section = panel or ("Arguments" if parameter.param_type_name == "argument" else "Options")
            if record := parameter.get_help_record(ctx):
                name = record[0].partition(" <")[0] if section == "Arguments" else re.sub(r"<list\[(\w+)\]>", r"<\1>", record[0])
                sections.setdefault(section, []).append((name, record[1]))
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


def refuse_idle(reason: str, *parameters: str) -> None:
    """Complain about options that were typed and would have no effect.

    Args:
        reason: The rest of the sentence that begins with the option: why it has none, and what to type instead.
        parameters: The parameters of the command, such as "min_area" for --min-area.

    Raises:
        ValueError: If one of them was typed.
    """
    for name in parameters:
        if name in _TYPED.get():
            raise ValueError(f"--{name.removesuffix('_').replace('_', '-')} {reason}")


def torchrun_process() -> tuple[int, int, int]:
    """This process's number, how many there are, and its number on this machine: 0, 1 and 0 without torchrun."""
    values = {name: os.environ.get(name, "1" if name == "WORLD_SIZE" else "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    for name, value in values.items():
        if not value.isdecimal():
            raise ValueError(f"{name} is '{value}' in the environment; torchrun sets it to a whole number. Unset it: unset {name}")
    return int(values["RANK"]), int(values["WORLD_SIZE"]), int(values["LOCAL_RANK"])


def torchrun_device() -> "torch.device":
    """The GPU of this process if there is one, else the CPU."""
    import torch

    return torch.device("cuda", torchrun_process()[2]) if torch.cuda.is_available() else torch.device("cpu")


def check_name(model: str) -> None:
    """Complain about a model that is unknown or has no weights, before anything large is imported.

    Raises:
        ValueError: If the zoo does not know the name, or has no weights for it.
        FileNotFoundError: If it is a path that does not exist.
    """
    parse_weights(model)


def check_targets(*files: Path | None) -> None:
    """Complain about files that cannot be written since something is in their place or in their folder's, or one is named twice.

    It is for files that are written after long work. None is a file that was not asked for.

    Raises:
        OSError: If one of them cannot be written.
        ValueError: If two are the same file.
    """
    named = [os.path.realpath(file) for file in files if file and not (file.exists() and not file.is_file())]
    if len({*named}) < len(named):
        raise ValueError(f"'{files[0]}' is given twice, and the second would replace the first; choose another name for one")
    for file in filter(None, files):
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, "", str(file))
        parent = next(p for p in file.absolute().parents if os.path.lexists(p))
        if not parent.is_dir():
            raise FileExistsError(errno.EEXIST, "", str(parent))
        if not file.exists() and not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "", str(parent))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on this address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def printable(text: str) -> str:
    """Text from files, such as names, in one line without what a terminal would obey or cannot show: that becomes escapes.

    Escaped are control characters, line ends among them, marks that change the direction of writing, and bytes of names that are
    not Unicode.
    """
    return "".join(c if category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else ascii(c)[1:-1] for c in text)


def cell(text: str) -> str:
    """Text from files for a table or a progress bar: see `printable`, and without rich's markup."""
    return escape(printable(text))


def say(text: str, console: Console = out) -> None:
    """Lines as they are: no wrapping, no colours, no markup read from names or paths."""
    console.print("\n".join(map(printable, text.split("\n"))), highlight=False, markup=False, soft_wrap=True)


def complain(error: Exception | str) -> None:
    """One line on stderr."""
    message = message_of(error) if isinstance(error, Exception) else error
    err.print(printable(f"Error: {message}"), style="red", highlight=False, markup=False, soft_wrap=True)


class LogLines(logging.Handler):
    """Shows what the package logs as lines on stderr, see `printable`; Python's own way prints names of files as they are."""

    def emit(self, record: logging.LogRecord) -> None:
        trace = [logging.Formatter().formatException(record.exc_info)] if record.exc_info else []
        say("\n".join([printable(record.getMessage()), *trace]), err)


def counted(count: int, word: str) -> str:
    """A number and its noun: 1 file, 2 files."""
    return f"{count} {word}{'s' * (count != 1)}"


def say_facts(facts: Sequence[tuple[str, str | Sequence[str]]]) -> None:
    """Names, and what there is to say of each, in two columns.

    Args:
        facts: Text is wrapped at words on a terminal. Lines, as commands and addresses, are below their name, so that they can be
            copied; a long command continues after a backslash.
    """
    width = max(len(name) for name, _ in facts) + 2
    room = max(out.width - width, 20)
    for name, value in facts:
        if not isinstance(value, str):
            say("\n  ".join([name, *(_wrapped_command(line) if out.is_terminal else line for line in value)]))
            continue
        lines = value.splitlines() or [""]
        if out.is_terminal:
            wrapped = (textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""] for line in lines)
            lines = [part for parts in wrapped for part in parts]
        say(f"{name:{width}}" + f"\n{'':{width}}".join(lines))


_COMMANDS = ("pspnet-zoo", "python", "torchrun", "pip", "hf", "for", "cp", "mkdir")


def _wrapped_command(line: str) -> str:
    """A command in lines that fit the terminal and can be copied together; what is none stays as it is."""
    words = re.findall(r"""(?:'[^']*'|"[^"]*"|\S)+""", line)
    if len(line) + 2 <= out.width or words[:1] not in ([name] for name in _COMMANDS):
        return line
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) > out.width - 9:  # indentation, a space, and the backslash
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n      ".join(lines)


def number_table(name: str, *numbers: str, title: str | None = None) -> Table:
    """A table with names at the left and numbers at the right; the headings, which may be names of files, are as they are."""
    table = Table(cell(name), title=title and cell(title))
    for heading in numbers:
        table.add_column(cell(heading), justify="right")
    return table


class _Progress(Progress):
    """A bar that fits every output.

    Without a terminal, as in a log, a line is written every 15 seconds. A bar that ends before its total is known is removed, since
    it would look complete beside an error.
    """

    lines = True
    _next_line = 0.0

    def start(self) -> None:
        self._next_line = time.monotonic() + _SECONDS_A_LINE
        super().start()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        self._log(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._log(task_id)

    def _log(self, task_id: TaskID) -> None:
        if not self.lines or self.console.is_terminal or time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + _SECONDS_A_LINE
        task = next(task for task in self.tasks if task.id == task_id)
        total = "" if task.total is None else f"/{task.total:g}"
        elapsed = timedelta(seconds=int(task.elapsed or 0))
        say(f"{Text.from_markup(task.description).plain}: {task.completed:g}{total} in {elapsed}", self.console)

    def stop(self) -> None:
        if any(task.total is not None for task in self.tasks):
            super().stop()
        elif not self.disable:
            self.live.transient = True
            self.live.stop()  # without the empty line that Progress writes where there is no terminal


def progress_bar(*, lines: bool = True) -> Progress:
    """Description, bar, count, time passed and time left, on stderr.

    Args:
        lines: Whether to write a line now and then where there is no terminal; the caller may write better ones.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = _Progress(*columns, console=err)
    bar.lines = lines
    return bar
