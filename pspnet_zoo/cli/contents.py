"""The contents of a dataset as the commands `pspnet-zoo data ...` print them."""

from typing import TYPE_CHECKING

import typer

from .terminal import cell, complain, counted, err, number_table, out, printable, say

if TYPE_CHECKING:
    from rich.table import Table

    from ..data.check import SplitContents


def show_contents(contents: "dict[str, SplitContents]", problems: list[str], split: str | None = None) -> None:
    """Print the number and sizes of the images, the fraction of each class, and what is wrong or doubtful.

    Args:
        contents: Of each split.
        problems: A line each.
        split: The only one that was looked at; None for every split that is there.

    Raises:
        typer.Exit: With code 2, if there is a problem.
    """
    from ..data.check import doubts

    for name, each in contents.items():
        sizes = ", ".join(f"{count} of {width}x{height}" for (width, height), count in each.sizes.most_common())
        say(f"{name}: {counted(each.images, 'image')}{f', {sizes}' if sizes else ''}")
    if contents:
        out.print(_fractions_table(contents))
    for doubt in (doubtful := doubts(contents, split, complete=not problems)):
        say(printable(f"Warning: {doubt}"), err)
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(2)
    if not doubtful:
        say("Nothing is wrong")


def _fractions_table(contents: "dict[str, SplitContents]") -> "Table":
    class_fractions = [c.class_fractions for c in contents.values()]
    table = number_table("class", *contents, title="fraction of the labelled pixels")
    for name in next(iter(contents.values())).labels.names:
        table.add_row(cell(name), *(f"{s[name]:.2%}" if s else "-" for s in class_fractions))
    table.add_section()
    table.add_row("ignored, of all", *(f"{c.ignored:.2%}" if (c.pixels + c.counted).any() else "-" for c in contents.values()))
    return table
