"""Images that wait for the network, and the threads that run it."""

import asyncio
import io
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..inference.prediction import Prediction
from ..inference.predictor import Predictor
from .limits import refusal

BATCH = 8
"""Most images of one size that a GPU segments at once."""


@dataclass
class _ImageJob:
    file: bytes
    respond: Callable[[Prediction], bytes]
    future: "Future[bytes]" = field(default_factory=Future)


class Ticket:
    """A request's place among those that are in work or wait.

    Attributes:
        future: The job's result, if it has begun one.
    """

    future: "Future[bytes] | None" = None


class WorkQueue:
    """A bounded queue of images, and threads that segment them.

    Args:
        workers: Number of threads.
        waiting: Most requests beyond those in work.
        observe: Called after each call of the network with its time in seconds and its number of images.
    """

    def __init__(self, *, workers: int, waiting: int, observe: Callable[[float, int], None] = lambda seconds, images: None) -> None:
        self._observe = observe
        self._most = workers + waiting
        self._inside = 0
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_ImageJob | None] = queue.SimpleQueue()
        self._workers = workers
        self._threads: list[threading.Thread] = []

    @property
    def inside(self) -> int:
        """Number of requests in work or waiting."""
        return self._inside

    @property
    def is_ready(self) -> bool:
        """Whether there is a network."""
        return bool(self._threads)

    def start(self, predictor: Predictor) -> None:
        """Begin to work."""
        self._threads = [threading.Thread(target=self._work, args=[predictor], daemon=True) for _ in range(self._workers)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads, after the images that they have begun."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    @contextmanager
    def enter(self) -> Iterator[Ticket]:
        """Take a place for a request; it is free again when the request is answered and its image is no longer in work.

        Raises:
            HTTPException: If all places are taken, 429.
        """
        with self._lock:
            if self._inside >= self._most:
                raise refusal(429, f"{self._inside} images are in work or waiting, the most at a time. Try again.", retry_after=1)
            self._inside += 1
        ticket = Ticket()
        try:
            yield ticket
        finally:
            if ticket.future is None:
                self._leave()
            else:
                ticket.future.add_done_callback(self._leave)

    def _leave(self, _: object = None) -> None:
        with self._lock:
            self._inside -= 1

    async def run(
        self, ticket: Ticket, file: bytes, respond: Callable[[Prediction], bytes], *, deadline: float, gone: Awaitable[object]
    ) -> bytes:
        """Segment a file and make an answer of its prediction, in one of the threads.

        Args:
            ticket: The request's place.
            file: The bytes of the file.
            respond: Makes the answer.
            deadline: Time of the event loop; work that has not begun until then is dropped.
            gone: Ends when the client has left; work that has not begun until then is dropped.

        Raises:
            HTTPException: If the deadline passes, 504.
            Exception: Whatever reading or segmenting the image raises.
        """
        job = _ImageJob(file, respond)
        ticket.future = job.future
        self._jobs.put(job)
        work, left = asyncio.wrap_future(job.future), asyncio.ensure_future(gone)
        try:
            seconds = max(deadline - asyncio.get_running_loop().time(), 0)
            done, _ = await asyncio.wait({work, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if work in done:
                return work.result()
            if left in done:
                raise refusal(400, "The connection was closed before the image was segmented.")
            raise refusal(504, "The image was not segmented in time. Send a smaller one, or try again later.")
        finally:
            if job.future.cancel():  # no thread has begun it, so that it stays in the queue until one comes to it
                job.file = b""
            work.cancel()
            left.cancel()

    def _work(self, predictor: Predictor) -> None:
        while self._next(predictor):
            pass

    def _next(self, predictor: Predictor) -> bool:
        """Segment what comes next; False at the end."""
        job = self._jobs.get()
        if job is not None:
            self._segment(predictor, [job, *([] if predictor.device.type == "cpu" else self._more())])
        return job is not None

    def _more(self) -> list[_ImageJob]:
        """Further jobs for a batch, which only a GPU gains by."""
        found: list[_ImageJob] = []
        while len(found) < BATCH - 1:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            found.append(job)
        return found

    def _segment(self, predictor: Predictor, jobs: list[_ImageJob]) -> None:
        by_size: dict[tuple[int, ...], list[tuple[_ImageJob, np.ndarray]]] = defaultdict(list)
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                try:
                    pixels = predictor.read(io.BytesIO(job.file))
                    by_size[pixels.shape].append((job, pixels))
                except Exception as error:
                    job.future.set_exception(error)
        for group in by_size.values():
            self._answer(predictor, group)

    def _answer(self, predictor: Predictor, group: list[tuple[_ImageJob, np.ndarray]]) -> None:
        """Segment images of one size together; if that fails, each alone, so that none fails for another one."""
        start, predictions = time.perf_counter(), None
        try:
            predictions = predictor.segment([pixels for _, pixels in group])
        except Exception as error:
            if len(group) == 1:
                group[0][0].future.set_exception(error)
                return
        if predictions is None:  # out of the clause above, in which the error keeps the memory of the batch
            for each in group:
                self._answer(predictor, [each])
            return
        self._observe(time.perf_counter() - start, len(group))
        for (job, _), prediction in zip(group, predictions, strict=True):
            try:
                job.future.set_result(job.respond(prediction))
            except Exception as error:
                job.future.set_exception(error)
