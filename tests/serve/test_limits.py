"""Requests at once: the queue, deadlines, and the end of the server."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.serve.limits import ServerLimits

from .conftest import image_file
from .test_answers import check_no_answer_is_mixed
from .test_faults import HEAD

ROOT = Path(__file__).parents[2]


def test_beyond_the_queue_the_answer_is_429_at_once_and_no_body_is_read(serve, slow):
    server = serve(predictor=slow, waiting=2)
    with ThreadPoolExecutor(3) as pool:
        inside = [pool.submit(server.send, image_file(seed)) for seed in range(3)]
        server.wait_inside(3)
        for content in (image_file(), iter([bytes(1000)] * 2000)):
            refused = server.send(content)
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert "3 images are in work or waiting" in refused.json()["detail"]
        with server.client() as client:  # what is not about images is answered meanwhile
            assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        slow.go.set()
        assert [future.result().status_code for future in inside] == [200] * 3
    assert server.send(image_file()).status_code == 200


def test_at_the_deadline_the_answer_is_504_and_waiting_work_is_dropped(serve, slow):
    server = serve(predictor=slow, seconds=1.0, waiting=3)
    with ThreadPoolExecutor(3) as pool:
        answers = [future.result() for future in [pool.submit(server.send, image_file(seed)) for seed in range(3)]]
    assert {answer.status_code for answer in answers} == {504}
    assert all("not segmented in time" in answer.json()["detail"] for answer in answers)
    server.wait_inside(1)  # the one that a thread had begun still takes its place
    slow.go.set()
    server.wait_inside(0)
    assert server.send(image_file()).status_code == 200


def test_work_of_a_client_that_has_left_is_dropped(serve, slow):
    server = serve(predictor=slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.send, image_file())
        server.wait_inside(1)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            file = image_file(1)
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(file) + file)
            server.wait_inside(2)
        server.wait_inside(1)
        slow.go.set()
        assert first.result().status_code == 200


def test_a_stop_finishes_what_has_begun_and_takes_nothing_more(serve, slow, predictor):
    server = serve(predictor=slow)
    with ThreadPoolExecutor(3) as pool:
        inside = [pool.submit(server.send, image_file(seed)) for seed in range(3)]
        server.wait_inside(3)
        server.uvicorn.should_exit = True
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", server.port)).close()
                time.sleep(0.05)
            except ConnectionError:
                break
        else:
            raise AssertionError("it still takes connections")
        slow.go.set()
        answers = [future.result() for future in inside]
    for seed, answer in enumerate(answers):
        with Image.open(io.BytesIO(answer.content)) as mask:
            assert np.array_equal(np.asarray(mask), predictor(io.BytesIO(image_file(seed))).mask)


@pytest.mark.parametrize(
    "values",
    [
        *({"bytes": value} for value in (0, 10**12, float("nan"))),
        *({"pixels": value} for value in (-1, 10**12)),
        *({"seconds": value} for value in (0, 1e300, float("inf"), float("nan"))),
        {"workers": 0},
        {"waiting": -1},
    ],
    ids=str,
)
def test_limits_are_checked(values):
    with pytest.raises(ValueError, match=re.escape(f"{next(iter(values))} is {next(iter(values.values()))}; it must be")):
        ServerLimits(**values)


@contextmanager
def command(*arguments, **environment):
    """`pspnet-zoo serve` in its own process, and its address once it is ready."""
    full = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    line = [sys.executable, "-m", "pspnet_zoo.cli", "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(line, env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            address = re.search(r"http://\S+?:\d+", said)
            assert address, said + process.stderr.read()
            assert process.stdout.readline().endswith("is ready\n")
            yield process, address[0]
        finally:
            process.kill()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_sigterm_finishes_what_has_begun_and_exits_with_0(tiny):
    large = image_file(size=(1600, 1000))
    with command(tiny, PSPNET_ZOO_SERVE_TOKEN="a-token-of-24-characters") as (process, address):
        headers = {"content-type": "image/png", "accept": "image/png", "authorization": "Bearer a-token-of-24-characters"}

        def send():
            return httpx.post(f"{address}/v1/segment", content=large, headers=headers, timeout=120, trust_env=False)

        def inside():
            text = httpx.get(f"{address}/metrics", headers=headers, trust_env=False, timeout=60).text
            return float(re.search(r"^pspnet_zoo_requests_inside (\S+)", text, re.MULTILINE)[1])

        with ThreadPoolExecutor(4) as pool:
            sent = [pool.submit(send) for _ in range(4)]
            while inside() < 3 and not all(future.done() for future in sent):
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            answers = [future.result() for future in sent]
        out, err = process.communicate(timeout=60)
    assert {answer.status_code for answer in answers} == {200} and len({answer.content for answer in answers}) == 1
    assert process.returncode == 0 and "all requests that had begun were answered" in out
    assert "Traceback" not in err and "a-token" not in out + err


@pytest.mark.slow
def test_fifty_clients_for_a_minute_get_their_answers_and_memory_stays(tiny, predictor):
    with command(tiny, "--queue", 30, "--workers", 2, "--threads", 1, "--no-token", "--host", "0.0.0.0") as (_, address):
        server = type("Remote", (), {})()
        own = socket.gethostbyname(socket.gethostname())
        address = address.replace("0.0.0.0", own)
        server.client = lambda: httpx.Client(base_url=address, trust_env=False, timeout=120)

        def memory():
            text = httpx.get(f"{address}/metrics", trust_env=False).text
            return float(re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)[1])

        first = check_no_answer_is_mixed(server, predictor, clients=50, seconds=5)
        before, middle = memory(), []
        watch = threading.Timer(30, lambda: middle.append(memory()))
        watch.start()
        counts = check_no_answer_is_mixed(server, predictor, clients=50, seconds=60)
        watch.join()
        after = memory()
    sys.stdout.write(f"\n{counts} after {first}; memory {before / 1e6:.0f}, {middle[0] / 1e6:.0f}, {after / 1e6:.0f} MB\n")
    assert counts[200] > 150 and counts[429] > 0
    assert after < before + 30e6
