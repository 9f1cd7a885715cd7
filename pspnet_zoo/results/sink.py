"""The files of results: masks and overlays, each whole or absent, and stamped with its input, model and options."""

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.images import check_file, encode_class_masks, read_class_masks, read_prediction
from ..data.rasters import open_raster
from ..inference.draw import with_legend
from ..inference.prediction import Prediction, class_fractions_of, fractions_of
from ..inference.predictor import Predictor
from ..meta import Labels
from ..runtimes.exported import ExportedRuntime, files_of
from ..storage.files import file_digest, write_atomically
from ..streams.pipeline import WORKERS, Segmented, in_order, is_out_of_memory, segment_all
from ..streams.video import overlay_video, read_comment, segment_video
from .jobs import Job, VideoOptions
from .maps import MapWriter, map_counts, quick_look
from .rows import ResultRow, named_error
from .stamp import TIFF_TAG, make_stamp, read_stamp, stamp_png

_log = logging.getLogger(__name__)

QUICK_LOOK = 2048
"""Longest side of the overlay of an image in tiles, in pixels."""


@contextmanager
def _naming_lack_of_memory() -> Iterator[None]:
    """Raise torch's errors of lacking memory, which are told from others by their words alone, as MemoryError."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(str(error)) from error


def _kept_counts(mask: Path, stamp: str) -> np.ndarray | None:
    """The pixels of each id of a mask in TIFF that has this stamp and can be read whole; else None."""
    try:
        return map_counts(mask)[1] if read_stamp(mask) == stamp else None
    except (ValueError, OSError):
        return None


def _frame_mask(job: Job, masks: Path, index: int) -> Path:
    """File of the mask of one of a video's frames."""
    return masks / f"{job.stem}_{index:06}.png"


@dataclass
class ResultSink:
    """Writes results of one model, and knows which of them are there already.

    Results are written and read in threads; every method is safe in them.
    """

    model: str
    """The model's name as the user gave it."""
    model_sha256: str
    """See `model_digest`."""
    alpha: float = 0.5
    """Opacity of the class colours in overlays, 0 to 1."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that change masks, such as the precision; part of every stamp."""
    video: VideoOptions = field(default_factory=VideoOptions)
    """Options that change the results of videos; part of their stamps."""
    look: dict[str, Any] = field(default_factory=dict)
    """Further options that change overlays only; part of their stamps."""
    cloud_optimized: bool = False
    """Write maps as cloud-optimised GeoTIFF."""
    confidence: bool = False
    """Whether the jobs of images have a file for the confidence."""
    multilabel: bool = False
    """Whether masks are TIFF files with a page a class, see `with_class_masks`."""
    unclaimed: dict[Job, ResultRow] = field(default_factory=dict, init=False)
    """Rows of images whose files are written, and that `segment` has not given out yet: left over when it is interrupted."""
    _digests: dict[Job, str] = field(default_factory=dict, init=False)

    def row(self, job: Job, **values: Any) -> ResultRow:
        """A row of this model about a job's source."""
        return ResultRow(str(job.source), model=self.model, model_sha256=self.model_sha256, **values)

    def failure(self, job: Job, error: Exception, seconds: float | None = None) -> ResultRow:
        """The row of a source that could not be done."""
        return self.row(job, error=named_error(job.source, error), seconds=seconds)

    def stamp(self, job: Job, target: Path, digest: str) -> str:
        """The stamp of one of a job's files, made from an input with this digest."""
        options = {**self.options, **({key: str(v) for key, v in asdict(self.video).items()} if job.is_video else {})}
        options |= {"alpha": self.alpha, **self.look} if target == job.overlay else {}
        options |= {"cog": True} if self.cloud_optimized and self._is_map(target) else {}
        return make_stamp(digest, self.model_sha256, **options)

    def is_done(self, job: Job) -> bool:
        """Whether all files of a job are there, made from this input by this model with these options.

        Of the masks of a video's frames, the first one stands for all: how many there are, only decoding the video tells.
        """
        read = read_comment if job.is_video else read_stamp
        stamps = {target: read(target) for target in job.targets}
        if stamps and job.is_video and self.video.masks is not None:
            first = _frame_mask(job, self.video.masks, 0)
            stamps[first] = read_stamp(first)
        if not stamps or None in stamps.values() or not job.source.is_file():
            return False
        try:
            digest = file_digest(job.source, "sha256")
        except OSError:  # it fails as an image that cannot be read, and the others are done
            return False
        return all(stamp == self.stamp(job, target, digest) for target, stamp in stamps.items())

    def read_back(self, job: Job, classes: tuple[str, ...]) -> ResultRow:
        """The row of an image that is done, from its mask."""
        try:
            if job.mask is None:
                raise ValueError("its rows cannot be made again without the video")
            if self._is_map(job.mask):
                (height, width), counts = map_counts(job.mask)
                fractions = fractions_of(counts, classes)
            else:
                ids = read_class_masks(job.mask, len(classes)) if self.multilabel else read_prediction(job.mask)
                (height, width), fractions = ids.shape[-2:], class_fractions_of(ids, classes)
            digest = file_digest(job.source, "sha256")
        except (ValueError, OSError) as error:
            return self.failure(job, error)
        return self.row(job, height=height, width=width, class_fractions=fractions, input_sha256=digest)

    def segment(
        self, predictor: Predictor, jobs: Iterable[Job], *, batch_size: int = 1, workers: int = WORKERS
    ) -> Generator[tuple[Job, ResultRow], None, None]:
        """Segment images and write their files; each is read before and written behind the network, in threads.

        Args:
            predictor: With the sink's model.
            jobs: Images.
            batch_size: See `segment_all`.
            workers: Threads that read, and as many that write.

        Yields:
            Each job with its row, in order.
        """

        def read(job: Job) -> np.ndarray:
            if job.source.is_file():  # before decoding: a file that changes meanwhile gets a stamp that never fits again
                self._digests[job] = file_digest(job.source, "sha256")
            return predictor.read(job.source)

        def segment(images: Sequence[np.ndarray]) -> list[Prediction]:
            return predictor.segment(images, confidence=self.confidence)

        results = segment_all(segment, read, jobs, batch_size=batch_size, workers=workers)
        for job, row in in_order(self._claimable, results, workers=workers):
            del self.unclaimed[job]
            yield job, row

    def _claimable(self, result: Segmented[Job, Prediction]) -> tuple[Job, ResultRow]:
        self.unclaimed[result.source] = row = self.write(result)
        return result.source, row

    def write(self, result: Segmented[Job, Prediction]) -> ResultRow:
        """Write the files of an image that `segment_all` has segmented, and return its row."""
        job, prediction = result.source, result.prediction
        digest = self._digests.pop(job, "")
        if prediction is None:
            return self.failure(job, result.error or ValueError("it was not segmented"), result.seconds)
        try:
            if job.overlay is not None:
                write_atomically(job.overlay, stamp_png(self._overlay(prediction), self.stamp(job, job.overlay, digest)))
            if job.confidence is not None and prediction.confidence is not None:
                png = _gray_png(prediction.confidence)
                write_atomically(job.confidence, stamp_png(png, self.stamp(job, job.confidence, digest)))
            if job.mask is not None and self._is_map(job.mask):
                with open_raster(job.source) as raster:
                    place = {"crs": raster.crs, "transform": raster.transform}
                with self._map(job, job.mask, prediction.mask.shape, prediction.labels, digest, place) as writer:
                    if writer.next_row < len(prediction.mask):
                        writer.add(prediction.mask[writer.next_row :])
            elif job.mask is not None and self.multilabel:
                stamp = f"{TIFF_TAG} {self.stamp(job, job.mask, digest)}"
                write_atomically(job.mask, encode_class_masks(prediction.mask, stamp))
            elif job.mask is not None:
                write_atomically(job.mask, stamp_png(prediction.png(), self.stamp(job, job.mask, digest)))
        except (ValueError, OSError, MemoryError) as error:
            return self.failure(job, error, result.seconds)
        return self._done(job, prediction, digest, result.seconds)

    @_naming_lack_of_memory()
    def segment_map(self, predictor: Predictor, job: Job, progress: Callable[[int, int], None]) -> ResultRow:
        """Segment an image in tiles, write its mask as they come, and its overlay at `QUICK_LOOK`.

        Args:
            predictor: With the sink's model, and tiles.
            job: An image; what an interrupted run of it left is continued.
            progress: Called with the pixels that are done and their total.

        Raises:
            ValueError: If the image cannot be read or segmented.
            OSError: If a file cannot be read or written.
            MemoryError: If it needs more memory than there is.
            FloatingPointError: If the scores of a tile are NaN.
        """
        assert job.mask is not None
        check_file(job.source)
        start, digest = time.perf_counter(), file_digest(job.source, "sha256")
        with predictor.open(job.source) as raster:
            height, width = raster.shape[1:]
            place = {"crs": raster.crs, "transform": raster.transform}
            counts = _kept_counts(job.mask, self.stamp(job, job.mask, digest))
            if counts is None:
                with self._map(job, job.mask, (height, width), predictor.labels, digest, place) as writer:
                    done = writer.next_row * width

                    def tile_done(pixels: int) -> None:
                        nonlocal done
                        done = min(done + pixels, height * width)
                        progress(done, height * width)

                    for rows in predictor.rows(raster, first_row=writer.next_row, tile_done=tile_done):
                        writer.add(rows)
                counts = map_counts(job.mask)[1]
            progress(height * width, height * width)
            fractions = fractions_of(counts, predictor.labels.names)
            if job.overlay is not None:
                image, ids = quick_look(raster, job.mask, predictor.runtime.preprocess.mean_color, QUICK_LOOK)
                small = Prediction(predictor.shown(image), ids, predictor.labels)
                png = self._overlay(small, fractions)
                write_atomically(job.overlay, stamp_png(png, self.stamp(job, job.overlay, digest)))
        seconds = time.perf_counter() - start
        return self.row(job, height=height, width=width, class_fractions=fractions, seconds=seconds, input_sha256=digest)

    def _map(self, job: Job, target: Path, size: tuple[int, int], labels: Labels, digest: str, place: dict[str, Any]) -> MapWriter:
        if place["transform"] is not None and place["crs"] is None:
            _log.warning("'%s' states a transform and no CRS, and so does its map", job.source)
        made_of = json.loads(self.stamp(job, target, digest))
        return MapWriter(target, size, labels, made_of, cloud_optimized=self.cloud_optimized, **place)

    def segment_frames(self, predictor: Predictor, job: Job) -> Iterator[ResultRow]:
        """Segment a video, write its overlay and the masks of its frames, and yield a row a frame; see `overlay_video`.

        Raises:
            MemoryError: If a frame needs more memory than there is.
        """
        start, digest, masks = time.perf_counter(), file_digest(job.source, "sha256"), self.video.masks
        segment, every = predictor.smoothed(self.video.smooth), self.video.every
        if job.overlay is None:
            frames = segment_video(segment, job.source, every=every)
        else:
            comment = self.stamp(job, job.overlay, digest)
            frames = overlay_video(segment, job.source, job.overlay, alpha=self.alpha, every=every, comment=comment)
        with _naming_lack_of_memory():
            for count, (frame, prediction) in enumerate(frames, 1):
                if masks is not None:
                    png = stamp_png(prediction.png(), self.stamp(job, masks, digest))
                    write_atomically(_frame_mask(job, masks, frame.index), png)
                seconds = (time.perf_counter() - start) / count
                yield self._done(job, prediction, digest, seconds, frame=frame.index, time=frame.time)

    def _done(self, job: Job, prediction: Prediction, digest: str, seconds: float, **values: Any) -> ResultRow:
        height, width = prediction.mask.shape[-2:]
        fractions = prediction.class_fractions
        return self.row(job, height=height, width=width, class_fractions=fractions, seconds=seconds, input_sha256=digest, **values)

    def _is_map(self, path: Path) -> bool:
        return path.suffix == ".tif" and not self.multilabel

    def _overlay(self, prediction: Prediction, fractions: Mapping[str, float] | None = None) -> bytes:
        buffer = io.BytesIO()
        image = with_legend(prediction.overlay(self.alpha), prediction.labels, fractions or prediction.class_fractions)
        # the fastest level of zlib: a quarter of the time, an eighth more bytes
        image.save(buffer, "png", compress_level=1)
        return buffer.getvalue()


def _gray_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def model_digest(predictor: Predictor) -> str:
    """SHA-256 of everything in a model that decides its results: weights, architecture, preprocessing and labels."""
    runtime = predictor.runtime
    if isinstance(runtime, ExportedRuntime):
        parts: list[Any] = [file_digest(path, "sha256") for path in files_of(runtime.path)]
    else:
        parts = [runtime.weights_sha256, sorted(predictor.model.config.items()), repr(runtime.preprocess), repr(predictor.labels)]
        parts += [] if runtime.threshold is None else [runtime.threshold]
    return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()
