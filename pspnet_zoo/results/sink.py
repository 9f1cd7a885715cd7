"""The files of results: masks and overlays, each whole or absent, and stamped with its input, model and options."""

import hashlib
import io
import json
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.images import read_prediction
from ..inference.prediction import Prediction, class_fractions_of
from ..inference.predictor import Predictor
from ..runtimes.exported import ExportedRuntime, files_of
from ..storage.files import file_digest, write_atomically
from ..streams.pipeline import WORKERS, Segmented, in_order, segment_all
from ..streams.video import overlay_video, read_comment, segment_video
from .jobs import Job, VideoOptions
from .rows import ResultRow, named_error
from .stamp import make_stamp, read_png_stamp, stamp_png


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
    confidence: bool = False
    """Whether the jobs of images have a file for the confidence."""
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
        return make_stamp(digest, self.model_sha256, **options, **({"alpha": self.alpha} if target == job.overlay else {}))

    def is_done(self, job: Job) -> bool:
        """Whether all files of a job are there, made from this input by this model with these options."""
        read = read_comment if job.is_video else read_png_stamp
        stamps = {target: read(target) for target in job.targets}
        if not stamps or None in stamps.values() or not job.source.is_file():
            return False
        digest = file_digest(job.source, "sha256")
        return all(stamp == self.stamp(job, target, digest) for target, stamp in stamps.items())

    def read_back(self, job: Job, classes: tuple[str, ...]) -> ResultRow:
        """The row of an image that is done, from its mask."""
        try:
            if job.mask is None:
                raise ValueError("its rows cannot be made again without the video")
            ids = read_prediction(job.mask)
            fractions = class_fractions_of(ids, classes)
            digest = file_digest(job.source, "sha256")
        except (ValueError, OSError) as error:
            return self.failure(job, error)
        return self.row(job, height=ids.shape[0], width=ids.shape[1], class_fractions=fractions, input_sha256=digest)

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
            if job.mask is not None:
                write_atomically(job.mask, stamp_png(prediction.png(), self.stamp(job, job.mask, digest)))
        except (OSError, MemoryError) as error:
            return self.failure(job, error, result.seconds)
        return self._done(job, prediction, digest, result.seconds)

    def segment_frames(self, predictor: Predictor, job: Job) -> Iterator[ResultRow]:
        """Segment a video, write its overlay and the masks of its frames, and yield a row a frame; see `overlay_video`."""
        start, digest, masks = time.perf_counter(), file_digest(job.source, "sha256"), self.video.masks
        segment, every = predictor.smoothed(self.video.smooth), self.video.every
        if job.overlay is None:
            frames = segment_video(segment, job.source, every=every)
        else:
            comment = self.stamp(job, job.overlay, digest)
            frames = overlay_video(segment, job.source, job.overlay, alpha=self.alpha, every=every, comment=comment)
        for count, (frame, prediction) in enumerate(frames, 1):
            if masks is not None:
                write_atomically(
                    masks / f"{job.stem}_{frame.index:06}.png", stamp_png(prediction.png(), self.stamp(job, masks, digest))
                )
            seconds = (time.perf_counter() - start) / count
            yield self._done(job, prediction, digest, seconds, frame=frame.index, time=frame.time)

    def _done(self, job: Job, prediction: Prediction, digest: str, seconds: float, **values: Any) -> ResultRow:
        height, width = prediction.mask.shape
        fractions = prediction.class_fractions
        return self.row(job, height=height, width=width, class_fractions=fractions, seconds=seconds, input_sha256=digest, **values)

    def _overlay(self, prediction: Prediction) -> bytes:
        buffer = io.BytesIO()
        # the fastest level of zlib: a quarter of the time, an eighth more bytes
        prediction.overlay(self.alpha, legend=True).save(buffer, "png", compress_level=1)
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
