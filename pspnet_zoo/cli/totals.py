"""The counts of `pspnet-zoo predict`, and its last lines."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .terminal import cell, complain, counted, number_table, out, say

if TYPE_CHECKING:
    from rich.table import Table

    from ..results.jobs import Job

_COLUMNS = 4  # images that have a column of their own in the table


@dataclass
class Totals:
    """Class fractions of all images and of the first few, in memory that does not grow."""

    done: int = 0
    skipped: int = 0
    failures: int = 0
    images: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    first: dict[str, Mapping[str, float]] = field(default_factory=dict)
    failed: "set[Job]" = field(default_factory=set)

    def add(self, name: str, class_fractions: Mapping[str, float]) -> None:
        self.images += 1
        if len(self.first) < _COLUMNS:
            self.first[name] = class_fractions
        for key, fraction in class_fractions.items():
            self.sums[key] = self.sums.get(key, 0.0) + fraction

    def fail(self, error: Exception | str) -> None:
        complain(error)
        self.failures += 1


def conclude(totals: Totals, replaced: int, output: Path, report: Path | None) -> None:
    """Say what was written; the exit code is 2 if something failed."""
    if totals.images:
        out.print(_fractions_table(totals))
    notes = [f"{totals.skipped} were there already"] * bool(totals.skipped)
    if replaced and totals.done:
        notes.append(f"{counted(replaced, 'older file')} {'was' if replaced == 1 else 'were'} replaced")
    say(f"Wrote the results of {counted(totals.done, 'file')} to {output}" + (f"; {', '.join(notes)}" if notes else ""))
    if report is not None:
        say(f"Wrote {report}")
    if totals.failures:
        raise typer.Exit(2)


def _fractions_table(totals: Totals) -> "Table":
    """Classes by image; many images are averaged into one column."""
    columns = totals.first
    if totals.images > _COLUMNS:
        columns = {f"mean of {totals.images} images": {n: s / totals.images for n, s in totals.sums.items()}}
    table = number_table("class", *map(os.path.basename, columns), title="fraction of the image")
    for name in sorted(totals.sums, key=lambda n: -totals.sums[n]):
        if totals.sums[name]:
            table.add_row(cell(name), *(f"{column[name]:.1%}" for column in columns.values()))
    return table
