"""The command `pspnet-zoo compare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import cell, number_table, out, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ..evaluation.compare import Difference

_IMAGES = 5


def compare(
    first: Annotated[Path, typer.Argument(metavar="REPORT", help="Report that evaluate --json wrote.")],
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Report of another model on the same images.")],
) -> None:
    """Compare two reports on the same images.

    Prints every measure, its difference, and the 95 % interval of the difference.
    A difference whose interval holds 0 may be chance. The images that lost most come last.
    """
    reports = [_read(path) for path in (first, second)]
    from ..evaluation.compare import compare_reports

    found = compare_reports(*reports)
    out.print(_table("measure", found.measures))
    out.print(_table("IoU", found.classes))
    if worse := [image for image in found.images if (image.change or 0) < 0][:_IMAGES]:
        out.print(_table("mIoU of the image", worse))
    else:
        say("No image lost")


def _read(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"No report '{path}'; write one by pspnet-zoo evaluate --json")
    try:
        return json.loads(path.read_bytes(), parse_constant=lambda nan: None)  # early reports have NaN for what cannot be measured
    except ValueError as error:
        raise ValueError(f"'{path}' is no report: {error}. Write one by pspnet-zoo evaluate --json") from None


def _table(what: str, rows: "Sequence[Difference]") -> "Table":
    table = number_table(what, "first", "second", "difference", "95 % interval")
    for row in rows:
        interval = "" if row.interval is None else "{:+.4f} to {:+.4f}".format(*row.interval)
        numbers = ("-" if v is None else f"{v:.4f}" for v in (row.first, row.second))
        table.add_row(cell(row.name), *numbers, "-" if row.change is None else f"{row.change:+.4f}", interval)
    return table
