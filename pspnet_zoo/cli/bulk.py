"""The command `pspnet-zoo bulk`: images by the million, on one machine or a cluster."""

from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import DEFAULT_MODEL, ModelOption, check_name, err, number_table, out, progress_bar, say

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
        str | None, typer.Option(show_default="image, bytes or path", help="Of Parquet: where the images are.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, show_default="all cores, or as GPUs hold", help="Processes with the network, a core each.")
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="0.5 lets two workers share a GPU.")] = 0,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="Images a shard; what is done again when a worker is lost.")] = 256,
    as_files: Annotated[bool, typer.Option("--as-files", help="Masks as PNG files below masks/ instead of in the shards.")] = False,
    address: Annotated[
        str | None, typer.Option(show_default="this machine alone", help="Of a running Ray cluster, 'auto' or ray://HOST:10001.")
    ] = None,
) -> None:
    """Segment images by the million, each exactly once.

    Ray Data writes Parquet shards, on one machine or a cluster; needs the extra 'bulk' of the package.

    The same command again does what is missing. An image that cannot be read is a row with its error.
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
                workers=workers,
                gpus_per_worker=gpus_per_worker,
                rows_per_shard=rows_per_shard,
                as_files=as_files,
                address=address,
                progress=progress,
            )
        except KeyboardInterrupt:
            bar.stop()
            say(f"Stopped. The shards in {destination} are whole; the same command goes on.", err)
            raise typer.Exit(130) from None
    _print(summary, destination)


def _print(summary: "Summary", destination: str) -> None:
    if summary.workers:
        table = number_table("worker", "images", "a second at work")
        for name, (images, seconds) in sorted(summary.workers.items()):
            table.add_row(name, f"{images:,}", f"{images / seconds:.1f}" if seconds else "-")
        out.print(table)
    rate = f", {summary.images / summary.seconds:.1f} a second" if summary.seconds else ""
    skipped = f"; {summary.skipped:,} were there before" if summary.skipped else ""
    failures = f", {summary.failures:,} of them could not be read (see the column error)" if summary.failures else ""
    say(f"Segmented {summary.images:,} images{rate}{failures}{skipped}. Results: {destination}")
