"""The commands `pspnet-zoo data ...`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .terminal import DatasetOption, complain, err, out, progress_bar, say

if TYPE_CHECKING:
    from ..data.check import SplitContents

app = typer.Typer(help="Look at a data set.", no_args_is_help=True)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the data set.")],
    dataset: DatasetOption = "folder",
    split: Annotated[str | None, typer.Option(help="Only this one, instead of every split that is there.")] = None,
) -> None:
    """Read a whole data set: number and sizes of the pictures, the share of each class, and every file that is wrong.

    If anything is wrong, it is named in a line each, and the exit code is 2; what is only doubtful is a warning.
    """
    from ..data.check import check_dataset, doubts

    with progress_bar() as bar:
        task = bar.add_task("reading", total=None)
        contents, problems = check_dataset(
            dataset, folder, split, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for name, each in contents.items():
        sizes = ", ".join(f"{count} of {width}x{height}" for (width, height), count in each.sizes.most_common())
        say(f"{name}: {each.pictures} pictures{f', {sizes}' if sizes else ''}")
    if contents:
        out.print(_shares_table(contents))
    for doubt in (doubtful := doubts(contents, split)):
        say(f"Warning: {doubt}", err)
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(2)
    if not doubtful:
        say("Nothing is wrong")


def _shares_table(contents: "dict[str, SplitContents]") -> Table:
    shares = [c.shares for c in contents.values()]
    table = Table("class", *map(escape, contents), title="share of the pixels that count")
    for name in next(iter(contents.values())).labels.names:
        table.add_row(escape(name), *(f"{s[name]:.2%}" if s else "-" for s in shares))
    table.add_section()
    table.add_row("ignored, of all", *(f"{c.ignored:.2%}" if c.pixels.any() else "-" for c in contents.values()))
    return table
