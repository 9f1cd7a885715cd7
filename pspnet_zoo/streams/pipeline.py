"""Runs many images through one network: threads read ahead and write behind, and the network keeps the order.

Threads are enough, since Pillow's codecs and numpy release Python's lock; the network runs in the caller's thread.
All queues are bounded, so that memory does not grow with the number of images.

Docs: docs/explanation/scale.md.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

import numpy as np

S = TypeVar("S")
P = TypeVar("P")  # a prediction
T = TypeVar("T")

_Read = tuple[S, np.ndarray | None, Exception | None, float]
"""An image, its pixels or the error of reading it, and the seconds that reading took."""

_NO_MEMORY = "The image of {}x{} pixels needs more memory than there is; shrink it, or cut it into parts"

WORKERS = min(4, os.cpu_count() or 1)
"""Default number of threads that read, and of threads that write."""
MOST_WORKERS = 1024
"""Most threads of a kind; more gain nothing, and exhaust a machine."""
MOST_IN_BATCH = 4096
"""Most images in a batch."""


@dataclass(frozen=True)
class Segmented(Generic[S, P]):
    """The result of one image: a prediction or an error."""

    source: S
    """The image as it was given."""
    prediction: P | None
    """None if there is an error."""
    error: Exception | None
    """The reason why the image was not segmented."""
    seconds: float
    """Time of reading the image and of the network; a batch's time is divided evenly."""


def segment_all(
    segment: Callable[[list[np.ndarray]], list[P]],
    read: Callable[[S], np.ndarray],
    images: Iterable[S],
    *,
    batch_size: int = 1,
    workers: int = WORKERS,
) -> Iterator[Segmented[S, P]]:
    """Segment images in order; one that fails is a result with its error, and the others are still done.

    An image fails if `read` raises any exception, or if `segment` raises ValueError or FloatingPointError or runs out of memory.
    The images of a batch that fails are segmented one by one.

    Args:
        segment: Maps (H, W, 3) uint8 RGB images of one size to their predictions.
        read: Maps an item of `images` to its pixels; it is called in threads.
        images: Arguments of `read`.
        batch_size: The most images that `segment` is given at once: neighbours of one size.
        workers: Threads that read.

    Raises:
        ValueError: If a number is not positive.
    """
    if not 1 <= batch_size <= MOST_IN_BATCH:
        raise ValueError(f"batch_size is {batch_size}; it can be 1 to {MOST_IN_BATCH:,}")

    def read_one(source: S) -> _Read[S]:
        start = time.perf_counter()
        try:
            pixels, error = read(source), None
        except Exception as problem:  # a damaged file fails in ways that nobody lists
            pixels, error = None, problem
        return source, pixels, error, time.perf_counter() - start

    batch: list[_Read[S]] = []
    for item in in_order(read_one, images, workers=workers, ahead=workers + batch_size):
        _, pixels, _, _ = item
        if batch and (len(batch) == batch_size or pixels is None or pixels.shape != _shape(batch)):
            yield from _segment(segment, batch)
            batch = []
        batch.append(item)
        if pixels is None:
            yield from _segment(segment, batch)
            batch = []
    if batch:
        yield from _segment(segment, batch)


def _shape(batch: "list[_Read[S]]") -> tuple[int, ...] | None:
    return None if batch[0][1] is None else batch[0][1].shape


def _segment(segment: Callable[[list[np.ndarray]], list[P]], batch: "list[_Read[S]]") -> Iterator[Segmented[S, P]]:
    """Segment images of one size, or pass on one that could not be read."""
    start = time.perf_counter()
    images = [pixels for _, pixels, _, _ in batch if pixels is not None]
    predictions: Sequence[P | None] = [None]
    failure = None
    try:
        predictions = segment(images) if images else [None]
    except (ValueError, FloatingPointError) as error:
        failure = error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failure = ValueError(_NO_MEMORY.format(*images[0].shape))
    if failure is not None and len(batch) > 1:
        for item in batch:
            yield from _segment(segment, [item])
        return
    seconds = (time.perf_counter() - start) / len(batch)
    for (source, _, error, reading), prediction in zip(batch, predictions, strict=True):
        yield Segmented(source, prediction, error or failure, reading + seconds)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is of lacking memory, which torch says by the words of a RuntimeError alone."""
    words = str(error).lower() if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or "memory" in words or "alloc" in words


def in_order(function: Callable[[S], T], items: Iterable[S], *, workers: int = WORKERS, ahead: int | None = None) -> Iterator[T]:
    """Map `function` over items in threads, and yield the results in the order of the items.

    `items` is read in the caller's thread, so that a generator there, such as one that runs a network, works while the threads do.

    Args:
        function: Called in the threads; its exceptions are raised here, in their turn.
        items: May be endless.
        workers: Number of threads.
        ahead: The most results that are computed or wait before the caller takes them; None is twice the number of threads.

    Raises:
        ValueError: If a number is out of its range.
    """
    ahead = 2 * workers if ahead is None else ahead
    if not 1 <= workers <= MOST_WORKERS or ahead < 1:
        raise ValueError(f"workers is {workers} and ahead is {ahead}; workers can be 1 to {MOST_WORKERS}, and ahead is positive")
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="pspnet-zoo") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # of a caller that stopped early
                future.cancel()


def prefetch(items: Iterable[T], size: int) -> Iterator[T]:
    """Yield the same items, computed in a thread of its own, at most `size` of them ahead of the caller.

    An exception of `items` is raised here, in its turn. A caller that stops early ends the thread after the item at work.
    """
    queue: Queue[tuple[T | None, BaseException | None, bool]] = Queue(size)
    stopped = Event()

    def put(entry: tuple[T | None, BaseException | None, bool]) -> None:
        while not stopped.is_set():
            try:
                queue.put(entry, timeout=0.1)
                return
            except Full:
                pass

    def work() -> None:
        try:
            for item in items:
                put((item, None, False))
                if stopped.is_set():
                    return
            put((None, None, True))
        except BaseException as error:
            put((None, error, True))

    thread = Thread(target=work, name="pspnet-zoo ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = queue.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]  # None only in the last entry
            del item  # not kept alive while the next one is waited for
    finally:
        stopped.set()
        while True:  # wakes the thread if it waits for a place
            try:
                queue.get_nowait()
            except Empty:
                break
        thread.join()
