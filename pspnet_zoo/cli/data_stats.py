"""The command `pspnet-zoo data stats`."""

from pathlib import Path
from typing import Annotated

import typer

from .terminal import LayoutOption, cell, complain, counted, err, number_table, out, progress_bar, say


def stats(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the dataset.")],
    dataset: LayoutOption = None,
    split: Annotated[str, typer.Option(help="The split whose images are read.")] = "train",
    bands: Annotated[str | None, typer.Option(help="Bands by name or number, separated by commas.", show_default="all")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write preprocess.json into DIR, which train and evaluate use.")] = False,
) -> None:
    """Measure the pixel values of each band of a dataset.

    Shows minimum, maximum, percentiles, mean and standard deviation, and proposes the preprocessing of a network. What cannot be
    read has a line each, and the exit code is then 2.
    """
    from ..data.open import find_layout, guess_layout
    from ..data.stats import pixel_stats, write_preprocess

    files = find_layout(dataset or guess_layout(folder)).find(folder, split).images
    chosen = [int(band) if band.isdecimal() else band for band in bands.split(",")] if bands else None
    with progress_bar() as bar:
        task = bar.add_task("reading", total=len(files))
        found, problems = pixel_stats(files, bands=chosen, progress=lambda done, total: bar.update(task, completed=done))
    for problem in problems:
        complain(problem)
    if found is None:
        raise typer.Exit(2)
    table = number_table("band", "min", "2 %", "50 %", "98 %", "max", "mean", "std", "no data")
    for band in found.bands:
        values = [band.minimum, *band.percentiles(), band.maximum, band.mean, band.std]
        gap = band.no_data / max(band.no_data + band.count, 1)
        table.add_row(cell(band.name), *(f"{value:.5g}" for value in values), f"{gap:.2%}")
    say(f"{split}: {counted(found.files, 'image')} of {found.dtype}")
    out.print(table)
    for band in found.bands:
        if not band.std:
            what = "has no valid pixel" if not band.count else f"is {band.mean:g} everywhere"
            say(f"Warning: Band {band.name} {what}; leave it out by --bands, or it is only centred", err)
    preprocess = found.preprocess()
    numbers = ("mean", preprocess.mean), ("std", preprocess.std)
    say(
        f"Proposed: white {preprocess.white:g}, "
        + ", ".join(f"{n} {', '.join(f'{v:.5g}' for v in values)}" for n, values in numbers)
    )
    if write and bands and not found.named:  # a number would be lost, and training would read the first bands
        raise ValueError(
            f"--write cannot state the bands {bands}, since the files have no names of bands; name them in the files, or write "
            "files with these bands only"
        )
    if write:
        say(f"Wrote '{write_preprocess(folder, preprocess)}'")
    if problems:
        raise typer.Exit(2)
