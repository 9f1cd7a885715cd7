"""The command `pspnet-zoo bulk`: millions of images, on one machine or a cluster."""

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .terminal import DEFAULT_MODEL, ModelOption, check_name, complain, err, number_table, out, progress_bar, say

if TYPE_CHECKING:
    from ..bulk.driver import Summary


def bulk(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder, a text file of paths, or Parquet with bytes or paths; s3:// and gs:// too."
        ),
    ],
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="Folder for Parquet shards; s3:// and gs:// too.")],
    model: ModelOption = DEFAULT_MODEL,
    column: Annotated[
        str | None, typer.Option(show_default="image, bytes or path", help="Column of a Parquet source that holds the images.")
    ] = None,
    kind: Annotated[
        Literal["folder", "list", "parquet"] | None,
        typer.Option(show_default="by its files", help="Kind of the source: images, a text file of paths, or Parquet."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, show_default="all cores, or as GPUs hold", help="Processes with the network, a core each.")
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="GPUs of a worker; 0.5 lets two workers share one.")] = 0,
    rows_per_shard: Annotated[
        int, typer.Option(min=1, help="Images a shard; when a worker is lost, its shard is made again.")
    ] = 256,
    as_files: Annotated[
        bool, typer.Option("--as-files", help="Write masks as PNG files below masks/ instead of into the shards.")
    ] = False,
    tile: Annotated[int | None, typer.Option(min=1, help="Segment in tiles of this side, in pixels, at full size.")] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, show_default="a quarter of the tile", help="Pixels that neighbouring tiles share.")
    ] = None,
    blend: Annotated[
        bool | None,
        typer.Option("--blend/--no-blend", show_default="blend", help="Fade tiles into each other, or average them evenly."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(show_default="this machine alone", help="Address of a running Ray cluster, 'auto' or ray://HOST:10001."),
    ] = None,
) -> None:
    """Segment millions of images, each exactly once.

    Ray Data writes Parquet shards, on one machine or a cluster. Needs the extra 'bulk' of the package.

    The same command again does the shards that are missing. An image that cannot be read is a row with its error, and the exit
    code is 2.
    """
    check_name(model)
    from ..bulk.driver import run

    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)

        def progress(summary: "Summary", total: int) -> None:
            rate = f"{summary.images / summary.seconds:.1f} images/s" if summary.seconds else "starting workers"
            bar.update(task, total=total, completed=summary.skipped + summary.images, description=rate)

        try:
            summary = run(
                source,
                destination,
                model,
                column=column,
                kind=kind,
                workers=workers,
                gpus_per_worker=gpus_per_worker,
                rows_per_shard=rows_per_shard,
                as_files=as_files,
                address=address,
                tile=tile,
                overlap=overlap,
                blend=blend,
                progress=progress,
            )
        except KeyboardInterrupt:
            with suppress(OSError):  # the terminal may be gone
                bar.stop()
                say(f"Stopped. The shards in {destination} are whole; the same command continues.", err)
            raise typer.Exit(130) from None
    _print(summary, destination)
    for error in summary.errors:
        complain(error)
    if summary.failures or summary.errors:
        raise typer.Exit(2)


def _print(summary: "Summary", destination: str) -> None:
    if summary.workers:
        table = number_table("worker", "images", "a second at work")
        for name, (images, seconds) in sorted(summary.workers.items()):
            table.add_row(name, f"{images:,}", f"{images / seconds:.1f}" if seconds else "-")
        out.print(table)
    say(f"Source: {summary.source}")
    rate = f", {summary.images / summary.seconds:.1f} a second" if summary.seconds else ""
    skipped = f"; {summary.skipped:,} were there already" if summary.skipped else ""
    failures = f", {summary.failures:,} of them could not be read (see the column error)" if summary.failures else ""
    say(f"Segmented {summary.images:,} images{rate}{failures}{skipped}. Results: {destination}")
