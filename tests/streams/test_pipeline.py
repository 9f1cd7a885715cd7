import threading
import time
from itertools import count

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo import Predictor
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.inference.prediction import Prediction
from pspnet_zoo.streams.pipeline import in_order, prefetch, segment_all


def slow_square(i):
    time.sleep(0.02 if i % 3 == 0 else 0.001)
    return i * i


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_results_come_in_the_order_of_the_items(workers, ahead):
    assert list(in_order(slow_square, range(20), workers=workers, ahead=ahead)) == [i * i for i in range(20)]


@pytest.mark.parametrize(("options", "ahead"), [({"ahead": 5}, 5), ({}, 4)], ids=["given", "twice the threads"])
def test_no_more_is_computed_ahead_than_allowed(options, ahead):
    started = []
    results = in_order(lambda i: started.append(i), count(), workers=2, **options)
    for taken in range(1, 8):
        next(results)
        time.sleep(0.02)
        assert len(started) == taken + ahead - 1
    results.close()


def test_what_waits_is_not_computed_once_the_caller_stops():
    started = []

    def work(i):
        started.append(threading.current_thread().name)
        time.sleep(0.05)

    results = in_order(work, count(), workers=1, ahead=9)
    next(results)
    results.close()
    assert len(started) <= 3 and started[0].startswith("pspnet-zoo")


def test_threads_work_while_the_items_are_made():
    """A generator that waits for what a thread does with the item before it would hang otherwise."""
    done = [threading.Event() for _ in range(4)]

    def items():
        for i in range(4):
            assert i == 0 or done[i - 1].wait(10)
            yield i

    assert list(in_order(lambda i: done[i].set(), items(), workers=1)) == [None] * 4


def test_an_error_is_raised_in_its_turn_and_ends_the_threads():
    results = in_order(lambda i: 1 // (3 - i), count(), workers=2)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [t for t in threading.enumerate() if t.name.startswith("pspnet-zoo")]


@pytest.mark.parametrize(("workers", "ahead"), [(0, 1), (1, 0), (-1, 4)])
def test_a_number_that_is_not_positive_is_refused(workers, ahead):
    with pytest.raises(ValueError, match="workers can be 1 to 1024, and ahead is positive"):
        next(in_order(slow_square, [1], workers=workers, ahead=ahead))
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(segment_all(lambda p: [], lambda s: s, [1], batch_size=0))


def test_prefetch_gives_the_same_items_and_at_most_so_many_early():
    taken = []

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    ahead = prefetch(items(), 3)
    for i in range(20):
        assert next(ahead) == i
        time.sleep(0.01)
        assert len(taken) <= i + 1 + 3 + 1  # in the queue, and one that waits for a place
    assert list(ahead) == []


def test_prefetch_raises_after_the_items_before():
    def items():
        yield 1
        raise OSError("the end is missing")

    ahead = prefetch(items(), 4)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the end is missing"):
        next(ahead)


def test_a_caller_that_stops_early_ends_the_thread():
    ahead = prefetch(count(), 2)
    assert next(ahead) == 0
    ahead.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("pspnet-zoo")]


def predict(pixels):
    return Prediction(pixels, pixels[..., 0] % 11, CAMVID)


def test_neighbours_of_one_size_are_batched_and_nothing_else():
    sizes = [(4, 6), (4, 6), (4, 6), (6, 4), None, (6, 4), (6, 4), (4, 6)]
    images = [None if s is None else np.full((*s, 3), i, np.uint8) for i, s in enumerate(sizes)]
    batches = []

    def segment(batch):
        batches.append([int(p[0, 0, 0]) for p in batch])
        return [predict(p) for p in batch]

    def read(image):
        if image is None:
            raise ValueError("no image")
        return image

    results = list(segment_all(segment, read, images, batch_size=2))
    assert batches == [[0, 1], [2], [3], [5, 6], [7]]
    assert [r.prediction is None for r in results] == [p is None for p in images] and str(results[4].error) == "no image"
    for image, result in zip(images, results, strict=True):
        assert result.source is image and result.seconds >= 0
        assert image is None or result.prediction.image is image


def test_images_go_one_by_one_if_nothing_is_said():
    batches = []
    segment = lambda batch: batches.append(len(batch)) or [predict(p) for p in batch]  # noqa: E731
    assert len(list(segment_all(segment, lambda p: p, [np.zeros((4, 6, 3), np.uint8)] * 3))) == 3
    assert batches == [1, 1, 1]


def test_images_are_read_in_so_many_threads_and_a_batch_ahead():
    started, threads = [], set()

    def read(i):
        started.append(i)
        threads.add(threading.current_thread())
        time.sleep(0.01)
        return np.zeros((4, 6, 3), np.uint8)

    results = segment_all(lambda batch: [predict(p) for p in batch], read, count(), batch_size=3, workers=1)
    next(results)
    time.sleep(0.2)
    assert len(threads) == 1 and len(started) == 7  # a batch, the one after it that ended it, and three ahead
    results.close()


def test_the_seconds_of_an_image_are_its_reading_and_its_share_of_the_batch():
    def read(image):
        time.sleep(0.02)
        return image

    def segment(batch):
        time.sleep(0.2)
        return [predict(p) for p in batch]

    for result in segment_all(segment, read, [np.zeros((4, 6, 3), np.uint8)] * 4, batch_size=4):
        assert 0.069 <= result.seconds < 0.7


def test_memory_does_not_grow_with_the_number_of_images():
    """Pixels that were read and not yet dropped, at most."""
    alive, most = set(), 0

    class Pixels(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def read(i):
        nonlocal most
        pixels = np.zeros((2, 2, 3), np.uint8).view(Pixels)
        alive.add(id(pixels))
        most = max(most, len(alive))
        return pixels

    for _ in segment_all(lambda batch: [predict(p) for p in batch], read, range(300), batch_size=3, workers=2):
        pass
    assert most <= 15


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 2), (8, 5)])
def test_a_stream_gives_what_one_by_one_gives_to_the_byte(net, tmp_path, caplog, batch_size, workers):
    random = np.random.default_rng(0)
    files = []
    for i in range(12):
        files.append(tmp_path / f"{i}.{'jpg' if i % 2 else 'png'}")
        Image.fromarray(random.integers(0, 256, (40 + i // 4, 57, 3), dtype=np.uint8)).save(files[-1])
    (tmp_path / "bad.png").write_bytes(b"no image")
    predictor = Predictor(net)
    alone = [predictor(file).mask.tobytes() for file in files]
    images = [*files[:5], tmp_path / "bad.png", *map(str, files[5:])]
    assert [p.mask.tobytes() for p in predictor.stream(images, batch_size=batch_size, workers=workers)] == alone
    assert "bad.png' is not an image" in caplog.text


def pixels_of(width):
    return np.zeros((4, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("takes images of 8x8 pixels"), "takes images of 8x8 pixels"),
        (FloatingPointError("scores are NaN"), "scores are NaN"),
        (MemoryError(), "The image of 4x9 pixels needs more memory than there is"),
        (RuntimeError("CUDA out of memory. Tried to allocate 3 GiB"), "The image of 4x9 pixels needs more memory than there is"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "The image of 4x9 pixels needs more memory than there is"),
    ],
    ids=str,
)
def test_an_image_that_the_network_cannot_take_is_a_failure_and_the_others_are_done(error, said):
    def segment(batch):
        if any(pixels.shape[1] == 9 for pixels in batch):
            raise error
        return [predict(pixels) for pixels in batch]

    results = list(segment_all(segment, pixels_of, [6, 9, 6]))
    assert [r.prediction is None for r in results] == [False, True, False] and said in str(results[1].error)


def test_a_batch_that_does_not_fit_into_memory_is_done_one_by_one():
    def segment(batch):
        if len(batch) > 1:
            raise MemoryError
        return [predict(pixels) for pixels in batch]

    results = list(segment_all(segment, pixels_of, [6] * 5, batch_size=3))
    assert len(results) == 5 and all(r.error is None for r in results)


def test_a_mistake_in_the_network_is_raised():
    def segment(batch):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(segment_all(segment, pixels_of, [6]))


def test_whatever_reading_raises_is_the_failure_of_that_image():
    results = list(segment_all(lambda batch: [predict(p) for p in batch], lambda i: pixels_of(6 // i), [1, 0, 2]))
    assert [type(r.error) for r in results] == [type(None), ZeroDivisionError, type(None)]
