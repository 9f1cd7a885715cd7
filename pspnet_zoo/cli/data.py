"""The commands `pspnet-zoo data ...`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .data_stats import stats
from .terminal import LayoutOption, complain, err, number_table, out, progress_bar, say

if TYPE_CHECKING:
    from rich.table import Table

    from ..data.check import SplitContents

app = typer.Typer(help="Look at a dataset.", no_args_is_help=True)
app.command()(stats)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the dataset.")],
    dataset: LayoutOption = None,
    split: Annotated[str | None, typer.Option(help="Only this one, instead of every split that is there.")] = None,
) -> None:
    """Read a whole dataset, and name every file that is wrong.

    It shows the number and sizes of the images and the share of each class. What is wrong has a line each, and the exit code is
    then 2; what is only doubtful is a warning.
    """
    from ..data.check import check_dataset, doubts
    from ..data.open import guess_layout

    with progress_bar() as bar:
        task = bar.add_task("reading", total=None)
        contents, problems = check_dataset(
            dataset or guess_layout(folder), folder, split, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for name, each in contents.items():
        sizes = ", ".join(f"{count} of {width}x{height}" for (width, height), count in each.sizes.most_common())
        say(f"{name}: {each.images} images{f', {sizes}' if sizes else ''}")
    if contents:
        out.print(_fractions_table(contents))
    for doubt in (doubtful := doubts(contents, split)):
        say(f"Warning: {doubt}", err)
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(2)
    if not doubtful:
        say("Nothing is wrong")


def _fractions_table(contents: "dict[str, SplitContents]") -> "Table":
    class_fractions = [c.class_fractions for c in contents.values()]
    table = number_table("class", *contents, title="share of the pixels that count")
    for name in next(iter(contents.values())).labels.names:
        table.add_row(escape(name), *(f"{s[name]:.2%}" if s else "-" for s in class_fractions))
    table.add_section()
    table.add_row("ignored, of all", *(f"{c.ignored:.2%}" if c.pixels.any() else "-" for c in contents.values()))
    return table
