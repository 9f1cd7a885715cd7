"""The command `pspnet-zoo predict`: images, folders of them, and videos."""

import os
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import Progress, TaskID

from .terminal import (
    DEFAULT_MODEL,
    ModelOption,
    PrecisionOption,
    cell,
    check_name,
    check_targets,
    counted,
    err,
    progress_bar,
    refuse_idle,
    say,
)
from .totals import Totals, conclude

if TYPE_CHECKING:
    from ..data.find import Found
    from ..inference.predictor import Predictor
    from ..results.jobs import Job
    from ..results.report import ReportWriter
    from ..results.rows import ResultRow
    from ..results.sink import ResultSink

_VIDEOS = "Options for videos"
_SHAPES = "Options for polygons"
_LARGE = "Options for large images, maps and other bands"


def predict(
    images: Annotated[
        list[str],
        # the loop reports what cannot be read, and does the others
        typer.Argument(metavar="FILE_OR_FOLDER", help="Images, videos, folders of images, or patterns such as 'in/**/*.jpg'."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("predictions"),
    model: ModelOption = DEFAULT_MODEL,
    precision: PrecisionOption = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the class colours in overlays.")] = 0.5,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also take images in the folders below; the results mirror the folders.")
    ] = False,
    masks_only: Annotated[bool, typer.Option("--masks-only", help="Write no overlays.")] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Write the probability of each pixel's class too: an 8-bit PNG, 255 for 1.")
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Skip images whose results were made from the same file by the same model, as to resume a run."
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Table of sizes and class fractions, a row an image or frame: .csv, .jsonl or .parquet.")
    ] = None,
    kind: Annotated[
        Literal["image", "video"] | None,
        typer.Option(show_default="by the name's ending", help="Take the files for images, or for videos."),
    ] = None,
    shapes: Annotated[
        Literal["masks", "coco", "labelme", "yolo", "geojson"],
        typer.Option("--format", help="Write the objects of images as polygons too, for this tool.", rich_help_panel=_SHAPES),
    ] = "masks",
    simplify: Annotated[
        float, typer.Option(min=0, help="Pixels by which outlines may move to spare corners.", rich_help_panel=_SHAPES)
    ] = 0.0,
    min_area: Annotated[
        int, typer.Option(min=0, help="Pixels of the smallest object that is written.", rich_help_panel=_SHAPES)
    ] = 0,
    tile: Annotated[
        int | None,
        typer.Option(min=1, help="Segment in tiles of this side, in pixels, at full size.", rich_help_panel=_LARGE),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0, show_default="a quarter of the tile", help="Pixels that neighbouring tiles share.", rich_help_panel=_LARGE
        ),
    ] = None,
    blend: Annotated[
        bool | None,
        typer.Option(
            "--blend/--no-blend",
            show_default="blend",
            help="Fade tiles into each other, or average them evenly.",
            rich_help_panel=_LARGE,
        ),
    ] = None,
    cog: Annotated[
        bool, typer.Option("--cog", help="Write masks of GeoTIFF and tiles as cloud-optimised GeoTIFF.", rich_help_panel=_LARGE)
    ] = False,
    overlay_bands: Annotated[
        str | None,
        typer.Option(
            show_default="the first three",
            help="Bands that overlays show, by name or number: nir,red,green.",
            rich_help_panel=_LARGE,
        ),
    ] = None,
    stretch: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", show_default="2 98", help="Percentiles shown as black and white.", rich_help_panel=_LARGE),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=4096, help="Images of equal size in a batch on a GPU; a CPU takes one.")
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=1024, show_default="cores, at most 4", help="Threads that read, and as many that write."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every N-th frame only.", rich_help_panel=_VIDEOS)] = 1,
    masks: Annotated[
        Path | None, typer.Option(help="Folder for the mask of each frame, NAME_000123.png.", rich_help_panel=_VIDEOS)
    ] = None,
    smooth: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.99,
            help="Weight of the earlier frames in a running average of class probabilities.",
            rich_help_panel=_VIDEOS,
        ),
    ] = 0.0,
) -> None:
    """Segment images and videos.

    Writes overlays and masks of class ids, and prints the fraction of each class.

    Images that cannot be read are reported, the others are segmented, and the exit code is 2.
    """
    check_name(model)
    from ..results.jobs import VideoOptions, plan_jobs, with_class_masks
    from ..results.report import ReportWriter, check_report

    if masks_only:
        refuse_idle("is the opacity of overlays, and --masks-only writes none; leave one of them out", "alpha")
        refuse_idle("is about overlays, and --masks-only writes none; leave one of them out", "overlay_bands", "stretch")
    if shapes == "masks":
        refuse_idle("is for polygons; add --format coco, labelme, yolo or geojson", "simplify", "min_area")
    elif simplify:
        from ..inference.outlines import import_shapely

        import_shapely()
    if tile is not None:
        refuse_idle("is for whole images; tiles are segmented one by one, so leave it out", "batch_size")
        refuse_idle("is of whole images, and --tile writes masks as they come; leave one of them out", "confidence")
    totals = Totals()
    if report is not None:
        check_report(report)
        check_targets(report)
    found = list(_find(images, recursive, totals))
    files: dict[str, Any] = {"masks_only": masks_only, "tiles": tile is not None, "confidence": confidence, "masks": masks}
    jobs = plan_jobs(found, output, **files, kind=kind, fail=totals.fail)
    has_videos = _check_jobs(jobs, masks_only, masks, confidence)
    if shapes != "masks" and all(job.is_video for job in jobs):
        raise ValueError(f"--format {shapes} is for images, and there are only videos; leave it out")
    from ..inference.predictor import Predictor
    from ..results.sink import ResultSink, model_digest
    from ..streams.pipeline import WORKERS

    tiles = {"tile": tile, "overlap": overlap, "blend": blend}
    bands: Any = overlay_bands.split(",") if overlay_bands else None
    look: dict[str, Any] = {k: v for k, v in (("overlay_bands", bands), ("stretch", stretch)) if v is not None}
    predictor = Predictor(model, precision=precision, **tiles, **look)
    planned = jobs = with_class_masks(jobs, masks) if predictor.labels.multilabel else jobs
    options = {key: value for key, value in {"precision": precision, **tiles}.items() if value is not None}
    kinds = {"cloud_optimized": cog, "confidence": confidence, "multilabel": predictor.labels.multilabel}
    sink = ResultSink(model, model_digest(predictor), alpha, options, VideoOptions(every, smooth, masks), look, **kinds)
    output.mkdir(parents=True, exist_ok=True)
    writer = nullcontext() if report is None else ReportWriter(report, predictor.labels.names, video=has_videos)
    try:
        with writer as table, progress_bar() as bar:
            run = _Run(predictor, sink, totals, table, bar, workers or WORKERS)
            if skip_existing:
                jobs = run.skip(jobs)
            replaced = sum(os.path.lexists(path) for job in jobs for path in job.targets)
            still = [job for job in jobs if not job.is_video]
            run.images(still, batch_size) if tile is None else run.maps(still)
            for job in jobs:
                if job.is_video:
                    run.video(job)
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be gone
            say(f"Stopped with {totals.done} of {len(jobs)} done; the same command with --skip-existing continues.", err)
        raise typer.Exit(130) from None
    if shapes != "masks":
        skipped = set(planned) - set(jobs)
        _write_shapes(planned, predictor, output, shapes, totals, skipped=skipped, simplify=simplify, min_area=min_area)
    conclude(totals, replaced, output, report)


def _check_jobs(jobs: "list[Job]", masks_only: bool, masks: Path | None, confidence: bool) -> bool:
    """Whether there are videos; options that would change nothing are refused."""
    if not jobs:
        raise typer.Exit(2)
    if not any(job.mask is not None and job.mask.suffix == ".tif" for job in jobs):
        refuse_idle("is for masks of GeoTIFF and of tiles, and there are none; add --tile 512, or leave it out", "cog")
    if not any(job.is_video for job in jobs):
        refuse_idle("is for videos, and there are none; leave it out", "every", "masks", "smooth")
        return False
    from ..streams.video import pyav

    pyav()
    if confidence:
        raise ValueError("--confidence is for images, and there is a video; leave one of them out")
    if masks_only and masks is None:
        raise ValueError("A video's masks need a folder with --masks-only; give --masks DIR")
    return True


def _write_shapes(jobs: "list[Job]", predictor: "Predictor", output: Path, kind: str, totals: Totals, **options: Any) -> None:
    from ..results.shapes import TITLES, write_shapes

    done = (job for job in jobs if job not in totals.failed)
    count, kept, place = write_shapes(done, predictor.labels, output, kind, **options, fail=totals.fail)
    note = f"; kept {counted(kept, 'file')} of images that were there already, since their contents differ" if kept else ""
    say(f"Wrote the objects in {counted(count, 'file')} as {TITLES[kind]} polygons to {place}{note}")


def _find(arguments: list[str], recursive: bool, totals: Totals) -> "Iterator[Found]":
    """Yield the files that the arguments name; an argument that names none is reported."""
    from ..data.find import find_files
    from ..results.stamp import is_result

    for argument in arguments:
        try:
            if argument.startswith(("http://", "https://")):
                raise ValueError(f"'{argument}' is an address; download the image first, and give its file")
            path = Path(argument)
            found = find_files(path, recursive=recursive, on_error=totals.fail)
            if [file.path for file in found] != [path]:
                images = [file for file in found if not is_result(file.path)]
                if left_out := len(found) - len(images):
                    say(f"Left out {left_out} results of earlier runs in '{argument}'", err)
                found = images
                if not images:
                    raise ValueError(f"No images in '{argument}' but results of earlier runs; name them one by one to segment them")
            elif not path.exists():
                raise FileNotFoundError(f"No file '{argument}'")
            yield from found
        except (ValueError, OSError) as error:
            totals.fail(error)


@dataclass
class _Run:
    """Everything that the jobs of a command share."""

    predictor: "Predictor"
    sink: "ResultSink"
    totals: Totals
    table: "ReportWriter | None"
    bar: Progress
    workers: int

    def skip(self, jobs: "list[Job]") -> "list[Job]":
        """Return the jobs that are not done yet, and report those that are."""
        from ..streams.pipeline import in_order

        left = []
        task = self.bar.add_task("comparing with earlier results", total=len(jobs))
        for job, done in in_order(lambda job: (job, self.sink.is_done(job)), jobs, workers=self.workers):
            row = self.sink.read_back(job, self.predictor.labels.names) if done and self.table is not None else None
            if not done or (row and row.error):  # a damaged mask, or a video, whose overlay has no rows
                left.append(job)
            else:
                self.totals.skipped += 1
                if self.table is not None and row:
                    self.table.add(row)
            self.bar.advance(task)
        self.bar.remove_task(task)
        return left

    def images(self, jobs: "list[Job]", batch_size: int) -> None:
        """Segment images; after an interruption, those whose files were written already are recorded too."""
        if not jobs:
            return
        task = self.bar.add_task("segmenting", total=len(jobs))
        try:
            with closing(self.sink.segment(self.predictor, jobs, batch_size=batch_size, workers=self.workers)) as results:
                for job, row in results:
                    self._record(job, row)
                    self.bar.advance(task)
        finally:
            for job, row in self.sink.unclaimed.items():
                self._record(job, row)

    def maps(self, jobs: "list[Job]") -> None:
        """Segment images in tiles, one after the other; one that fails is recorded, and the others are done."""
        for job in jobs:
            task = self.bar.add_task(cell(f"{job.source.name}, megapixels"), total=None)

            def progress(done: int, total: int, task: TaskID = task) -> None:
                self.bar.update(task, completed=-(-done // 1_000_000), total=-(-total // 1_000_000))  # shown as whole numbers

            try:
                self._record(job, self.sink.segment_map(self.predictor, job, progress))
            except (ValueError, OSError, MemoryError, FloatingPointError) as error:
                self.bar.remove_task(task)
                self._record(job, self.sink.failure(job, error))

    def _record(self, job: "Job", row: "ResultRow") -> None:
        if row.error is not None:
            self.totals.fail(row.error)
            self.totals.failed.add(job)
        elif row.class_fractions is not None:
            self.totals.add(job.stem, row.class_fractions)
            self.totals.done += 1
        if self.table is not None:
            self.table.add(row)

    def video(self, job: "Job") -> None:
        """Segment a video; what can be read of a damaged one is done, and its error recorded."""
        try:
            self._frames(job)
            self.totals.done += 1
        except (ValueError, OSError, MemoryError, FloatingPointError) as error:
            self._record(job, self.sink.failure(job, error))

    def _frames(self, job: "Job") -> None:
        from ..streams.video import read_video_info

        info, every = read_video_info(job.source), self.sink.video.every
        task = self.bar.add_task(cell(f"{job.source.name} frames"), total=info.frames and -(-info.frames // every))
        start, frames, sums = time.perf_counter(), 0, {}
        try:
            for row in self.sink.segment_frames(self.predictor, job):
                sums = {name: sums.get(name, 0.0) + fraction for name, fraction in (row.class_fractions or {}).items()}
                frames += 1
                if self.table is not None:
                    self.table.add(row)
                rate = frames / (time.perf_counter() - start)
                self.bar.update(task, advance=1, description=cell(f"{job.source.name}, {rate:.1f} frames/s"))
        finally:
            self.bar.update(task, total=frames)  # of some videos the number is an estimate
            if frames:
                self.totals.add(job.stem, {name: fraction / frames for name, fraction in sums.items()})
        if job.overlay is not None and (lost := sorted(set(info.sound) - set(read_video_info(job.overlay).sound))):
            say(f"mp4 cannot hold the sound of '{job.source}' ({', '.join(lost)}); the overlay has none", err)
