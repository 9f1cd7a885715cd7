"""The command `pspnet-zoo predict`: images, folders of them, and videos."""

import io
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from .terminal import DEFAULT_MODEL, ModelOption, PrecisionOption, check_name, complain, err, number_table, out, progress_bar, say

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table

    from ..data.find import Found
    from ..inference.prediction import Prediction
    from ..inference.predictor import Predictor
    from ..results.report import ReportWriter
    from ..streams.pipeline import Segmented

_COLUMNS = 4  # images that have a column of their own in the table
_VIDEOS = "Of videos"


@dataclass(frozen=True)
class _Job:
    """An image or video, and where its results go."""

    source: Path
    stem: str
    overlay: Path | None
    mask: Path | None

    @property
    def targets(self) -> list[Path]:
        return [path for path in (self.overlay, self.mask) if path is not None]


@dataclass(frozen=True)
class _Done:
    """What is kept of an image when its files are written."""

    job: _Job
    size: tuple[int, int] | None
    class_fractions: dict[str, float] | None
    seconds: float
    error: Exception | None


@dataclass
class _Totals:
    """Shares of all images and the first few, in memory that does not grow."""

    images: int = 0
    failures: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    first: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, name: str, class_fractions: dict[str, float]) -> None:
        self.images += 1
        if len(self.first) < _COLUMNS:
            self.first[name] = class_fractions
        for key, fraction in class_fractions.items():
            self.sums[key] = self.sums.get(key, 0.0) + fraction

    def fail(self, error: Exception) -> None:
        complain(error)
        self.failures += 1


def predict(
    images: Annotated[
        list[Path],
        # what cannot be read is reported by the loop, which goes on with the others
        typer.Argument(
            metavar="FILE_OR_FOLDER",
            help="Images, videos, folders of images, or patterns such as 'in/**/*.jpg'.",
            readable=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("predictions"),
    model: ModelOption = DEFAULT_MODEL,
    precision: PrecisionOption = "float32",
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Weight of the colours in the overlay.")] = 0.5,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders below too; the results mirror them.")] = False,
    masks_only: Annotated[bool, typer.Option("--masks-only", help="No overlays.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out what has its results: goes on after a run that was stopped.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="A row an image or frame: size, share of each class; .csv, .jsonl or .parquet.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of equal size that a GPU gets at once; CPUs take one.")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, show_default="cores, at most 4", help="Threads that read, and as many that write.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Only each N-th frame.", rich_help_panel=_VIDEOS)] = 1,
    masks: Annotated[Path | None, typer.Option(help="Folder for a mask a frame, NAME_000123.png.", rich_help_panel=_VIDEOS)] = None,
    smooth: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Weight of the past when class scores are averaged over time.", rich_help_panel=_VIDEOS),
    ] = 0.0,
) -> None:
    """Segment images and videos.

    It writes overlays and masks of class ids, and shows what is in the images.

    An image that cannot be read is reported and the others are still done; the exit code is then 2.
    """
    check_name(model)
    from ..results.report import ReportWriter, check_report
    from ..streams.video import pyav

    totals = _Totals()
    if report is not None:
        check_report(report)
    found = list(_find(images, recursive, output, totals))
    jobs, videos = _jobs(found, output, masks_only, totals)
    if videos:
        pyav()
    if videos and masks_only and masks is None:
        raise ValueError("A video's masks need a folder with --masks-only; give --masks DIR")
    there = [job for job in (*jobs, *videos) if skip_existing and job.targets and all(path.exists() for path in job.targets)]
    left_out = {job.source for job in there}
    jobs, videos = ([job for job in some if job.source not in left_out] for some in (jobs, videos))
    if not (jobs or videos or there):
        raise typer.Exit(2)
    replaced = sum(path.exists() for job in (*jobs, *videos) for path in job.targets)
    from ..inference.predictor import Predictor

    predictor = Predictor(model, precision=precision)
    output.mkdir(parents=True, exist_ok=True)
    rows = nullcontext() if report is None else ReportWriter(report, predictor.labels.names, video=bool(videos))
    done = 0
    try:
        with rows as table, progress_bar() as bar:
            if table is not None:
                _report_skipped(there, table, predictor.labels.names)
            for item in _images(predictor, jobs, bar, alpha, batch_size, workers):
                if item.error is not None:
                    totals.fail(item.error)
                elif item.class_fractions is not None:
                    totals.add(item.job.stem, item.class_fractions)
                    done += 1
                if table is not None:
                    table.add(
                        item.job.source,
                        size=item.size,
                        class_fractions=item.class_fractions,
                        seconds=item.seconds,
                        error=item.error,
                    )
            for job in videos:
                try:
                    _video(predictor, job, table, totals, bar, (alpha, every, masks, smooth))
                    done += 1
                except (ValueError, OSError) as error:
                    totals.fail(error)
                    if table is not None:
                        table.add(job.source, error=error)
    except KeyboardInterrupt:
        say(f"Stopped with {done} of {len(jobs) + len(videos)} done; the same command with --skip-existing goes on.", err)
        raise typer.Exit(130) from None
    if totals.images:
        out.print(_fractions_table(totals))
    _closing(done, len(there), replaced, output, report)
    if totals.failures:
        raise typer.Exit(2)


def _closing(done: int, skipped: int, replaced: int, output: Path, report: Path | None) -> None:
    notes = [f"{skipped} were there before"] * bool(skipped) + [f"{replaced} older files were replaced"] * bool(replaced and done)
    say(f"Wrote the results of {done} to {output}" + (f"; {', '.join(notes)}" if notes else ""))
    if report is not None:
        say(f"Wrote {report}")


def _find(arguments: list[Path], recursive: bool, output: Path, totals: _Totals) -> "Iterator[Found]":
    """The files that are meant; an argument that gives none is reported."""
    from ..data.find import find_files

    for argument in arguments:
        try:
            if str(argument).startswith(("http:/", "https:/")):
                address = str(argument).replace(":/", "://", 1)  # a path has no double slash
                raise ValueError(f"'{address}' is an address; fetch the image first, and give its file")
            found = find_files(argument, recursive=recursive, without=output)
            if missing := [f.path for f in found if not f.path.exists()]:
                raise FileNotFoundError(f"No file '{missing[0]}'")
            yield from found
        except (ValueError, OSError) as error:
            totals.fail(error)


def _jobs(found: "list[Found]", output: Path, masks_only: bool, totals: _Totals) -> tuple[list[_Job], list[_Job]]:
    """Images and videos with their targets; one that would overwrite an input is reported."""
    from ..streams.video import SUFFIXES as VIDEOS

    inputs = {file.path.resolve() for file in found}
    images: list[_Job] = []
    videos: list[_Job] = []
    for file, stem in zip(found, _unique_stems([f.name for f in found]), strict=True):
        if file.path.suffix.lower() in VIDEOS:
            videos.append(job := _Job(file.path, stem, None if masks_only else output / f"{stem}_overlay.mp4", None))
        else:
            overlay = None if masks_only else output / f"{stem}_overlay.png"
            images.append(job := _Job(file.path, stem, overlay, output / f"{stem}_mask.png"))
        if taken := [path for path in job.targets if path.resolve() in inputs]:
            totals.fail(ValueError(f"'{taken[0]}' is one of the images to segment; choose another folder with -o"))
            (videos if job in videos else images).remove(job)
    return images, videos


def _unique_stems(names: list[Path]) -> list[str]:
    """Names for the results, with their folders; those that would fall together get numbers."""
    stems: dict[str, None] = {}  # in order
    for name in names:
        stem = name.with_suffix("").as_posix()
        numbered = (f"{stem}_{n}" for n in count(2))
        stems[next(s for s in chain([stem], numbered) if s not in stems)] = None
    return list(stems)


def _images(
    predictor: "Predictor", jobs: list[_Job], bar: Progress, alpha: float, batch_size: int, workers: int | None
) -> Iterator[_Done]:
    """Segment images; each is read before and written behind the network, in threads."""
    from ..streams.pipeline import WORKERS, in_order, segment_all

    if not jobs:
        return
    workers = workers or WORKERS
    task = bar.add_task("segmenting", total=len(jobs))
    results = segment_all(predictor.segment, lambda job: predictor.read(job.source), jobs, batch_size=batch_size, workers=workers)
    for item in in_order(lambda result: _write(result, alpha), results, workers=workers):
        yield item
        bar.advance(task)


def _write(result: "Segmented[_Job, Prediction]", alpha: float) -> _Done:
    from ..storage.files import write_atomically

    job, prediction = result.source, result.prediction
    if prediction is None:
        return _Done(job, None, None, result.seconds, result.error)
    try:
        if job.overlay is not None:
            write_atomically(job.overlay, _png(prediction.overlay(alpha, legend=True)))
        if job.mask is not None:  # last, so that an image whose mask is there is done
            write_atomically(job.mask, prediction.png())
    except OSError as error:
        return _Done(job, prediction.mask.shape, None, result.seconds, error)
    return _Done(job, prediction.mask.shape, prediction.class_fractions, result.seconds, None)


def _png(image: "Image") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)  # a quarter of the time, an eighth more bytes
    return buffer.getvalue()


def _report_skipped(jobs: Iterable[_Job], table: "ReportWriter", classes: tuple[str, ...]) -> None:
    """Rows of images that were done before, from their masks."""
    from ..data.images import read_prediction
    from ..inference.prediction import class_fractions_of

    for job in jobs:
        if job.mask is None:
            continue  # a video's frames are not looked at again
        try:
            ids = read_prediction(job.mask)
            class_fractions = class_fractions_of(ids, classes)
        except (ValueError, OSError) as error:
            table.add(job.source, error=error)
            continue
        table.add(job.source, size=ids.shape, class_fractions=class_fractions)


def _video(
    predictor: "Predictor",
    job: _Job,
    table: "ReportWriter | None",
    totals: _Totals,
    bar: Progress,
    options: tuple[float, int, Path | None, float],
) -> None:
    from ..storage.files import write_atomically
    from ..streams.video import overlay_video, probe, segment_video

    alpha, every, masks, smooth = options
    info = probe(job.source)
    task = bar.add_task(escape(f"{job.source.name} frames"), total=info.frames and -(-info.frames // every))
    segment = predictor.smoothed(smooth)
    items = (
        segment_video(segment, job.source, every=every)
        if job.overlay is None
        else overlay_video(segment, job.source, job.overlay, alpha=alpha, every=every)
    )
    start, frames, sums = time.perf_counter(), 0, {}
    try:
        for frame, prediction in items:
            if masks is not None:
                write_atomically(masks / f"{job.stem}_{frame.index:06}.png", prediction.png())
            class_fractions = prediction.class_fractions
            sums = {name: sums.get(name, 0.0) + fraction for name, fraction in class_fractions.items()}
            frames += 1
            seconds = time.perf_counter() - start
            if table is not None:
                size = prediction.mask.shape
                table.add(
                    job.source,
                    size=size,
                    class_fractions=class_fractions,
                    seconds=seconds / frames,
                    frame=frame.index,
                    time=frame.time,
                )
            bar.update(task, advance=1, description=escape(f"{job.source.name}, {frames / seconds:.1f} frames/s"))
    finally:
        bar.update(task, total=frames)  # of some videos the number is an estimate
        if frames:
            totals.add(job.stem, {name: fraction / frames for name, fraction in sums.items()})
    if job.overlay is not None and (lost := sorted(set(info.sound) - set(probe(job.overlay).sound))):
        say(f"mp4 cannot hold the sound of '{job.source}' ({', '.join(lost)}); the overlay has none", err)


def _fractions_table(totals: _Totals) -> "Table":
    """Classes by image; many images are averaged into one column."""
    columns = totals.first
    if totals.images > _COLUMNS:
        columns = {f"mean of {totals.images} images": {n: s / totals.images for n, s in totals.sums.items()}}
    table = number_table("class", *map(os.path.basename, columns), title="share of the image")
    for name in sorted(totals.sums, key=lambda n: -totals.sums[n]):
        if totals.sums[name]:
            table.add_row(escape(name), *(f"{column[name]:.1%}" for column in columns.values()))
    return table
