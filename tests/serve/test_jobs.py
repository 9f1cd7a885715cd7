"""The queue of images: what it holds of those that nobody waits for, and what one image does to others in a batch."""

import asyncio
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra 'serve'")

from fastapi import HTTPException

from pspnet_zoo.serve.jobs import WorkQueue

MEGABYTE = 1_000_000


class Stub:
    """A predictor on a GPU that reads every file as its first byte, and segments once `go` is set; 13 fails, and so do batches."""

    device = torch.device("cuda")

    def __init__(self):
        self.go, self.entered, self.batches = threading.Event(), threading.Event(), []

    def read(self, file):
        return np.full((2, 2, 3), file.read()[0], np.uint8)

    def segment(self, images):
        self.entered.set()
        assert self.go.wait(60)
        self.batches.append(len(images))
        if len(images) > 1 or images[0][0, 0, 0] == 13:
            raise RuntimeError("CUDA out of memory")
        return [image[0, 0, 0] for image in images]


def run_in_thread(coroutine):
    """Run a coroutine, also where a browser of other tests has left an event loop in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def held(work):
    """The bytes of the files of waiting jobs, which are taken from the queue."""
    total = 0
    with suppress(queue.Empty):
        while True:
            total += len(work._jobs.get_nowait().file)
    return total


@pytest.fixture
def stub():
    stub = Stub()
    yield stub
    stub.go.set()


@pytest.mark.parametrize(("leaves", "status"), [(True, 400), (False, 504)], ids=["left", "timed out"])
def test_images_of_clients_that_left_or_timed_out_are_not_kept(stub, leaves, status):
    work = WorkQueue(workers=1, waiting=5)
    work.start(stub)

    async def client(*, leaves, seconds):
        with work.enter() as ticket:
            gone = asyncio.sleep(0 if leaves else 60)
            deadline = asyncio.get_running_loop().time() + seconds
            return await work.run(
                ticket, bytes([1]) * MEGABYTE, lambda prediction: b"%d" % prediction, deadline=deadline, gone=gone
            )

    async def clients():
        first = asyncio.create_task(client(leaves=False, seconds=60))
        while not stub.entered.is_set():
            await asyncio.sleep(0.01)
        for _ in range(20):  # more than the queue holds, since each that leaves frees its place
            with pytest.raises(HTTPException) as error:
                await client(leaves=leaves, seconds=60 if leaves else 0.01)
            assert error.value.status_code == status
        assert work.inside == 1 and work._jobs.qsize() == 20 and held(work) == 0
        stub.go.set()
        assert await first == b"1"

    run_in_thread(clients())
    work.close()


def test_an_image_that_fails_on_a_gpu_fails_alone(stub):
    calls = []
    work = WorkQueue(workers=1, waiting=9, observe=lambda seconds, images: calls.append(images))
    work.start(stub)

    async def client(value):
        with work.enter() as ticket:
            deadline = asyncio.get_running_loop().time() + 60
            return await work.run(
                ticket, bytes([value]), lambda prediction: b"%d" % prediction, deadline=deadline, gone=asyncio.sleep(60)
            )

    async def clients():
        first = asyncio.create_task(client(1))
        while not stub.entered.is_set():
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(client(value)) for value in (7, 13, 21)]
        end = time.monotonic() + 60
        while work._jobs.qsize() < 3 and time.monotonic() < end:
            await asyncio.sleep(0.01)
        stub.go.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    one, seven, thirteen, twenty_one = run_in_thread(clients())
    work.close()
    assert (one, seven, twenty_one) == (b"1", b"7", b"21") and isinstance(thirteen, RuntimeError)
    assert stub.batches == [1, 3, 1, 1, 1] and calls == [1, 1, 1]
