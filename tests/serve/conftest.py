"""Servers on 127.0.0.1 with a tiny network; nothing of them stays open."""

import io
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_zoo import Labels, Predictor, PSPNet

pytest.importorskip("fastapi_offline", reason="needs the extra 'serve'")
httpx = pytest.importorskip("httpx")

from pspnet_zoo.serve.limits import ServerLimits  # noqa: E402
from pspnet_zoo.serve.server import listen, serve_forever  # noqa: E402


class Server:
    """A running server: its address, its predictor, and how to end it."""

    def __init__(self, predictor, *, token=None, load=None, **limits):
        self.predictor = predictor
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._ready, self.error = threading.Event(), None

        def run():
            try:
                serve_forever(
                    listener,
                    "tiny",
                    load or (lambda: predictor),
                    limits=ServerLimits(**limits),
                    token=token,
                    ready=self._ready.set,
                    started=lambda server: setattr(self, "uvicorn", server),
                )
            except Exception as error:
                self.error = error

        self.thread = threading.Thread(target=run)
        self.thread.start()
        while load is None and not self._ready.wait(0.1):
            assert self.thread.is_alive(), self.error

    def client(self, **options):
        return httpx.Client(base_url=self.address, trust_env=False, timeout=120, **options)

    def send(self, content, *, accept="image/png", kind="image/png", params=None, **headers):
        headers = {"accept": accept, "content-type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}}
        with self.client() as client:
            return client.post("/v1/segment", content=content, headers=headers, params=params)

    def inside(self):
        with self.client() as client:
            (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith("pspnet_zoo_requests_inside")]
        return float(line.split()[-1])

    def wait_inside(self, count):
        end = time.monotonic() + 60
        while self.inside() != count:
            assert time.monotonic() < end, f"{self.inside()} requests are inside, not {count}"
            time.sleep(0.02)

    def stop(self):
        self.uvicorn.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    network = PSPNet("test_efficientnet", None, classes=3, psp_out_channels=16)
    network.labels = Labels(("road", "sky", "car"), ((128, 64, 128), (70, 130, 180), (0, 0, 142)))
    for layer in network.modules():  # so that different images give different masks
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
    network.eval()
    with torch.no_grad():
        network.segmentation_head[0].bias.sub_(torch.tensor([1.0694, 0.2287, 0.2796]))  # every class somewhere
    return network.save_pretrained(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def predictor(tiny):
    return Predictor(tiny)


@pytest.fixture
def serve(predictor):
    """A function that starts a server; all are stopped, and their threads have ended."""
    before, servers = set(threading.enumerate()), []

    def serve(**options):
        servers.append(Server(options.pop("predictor", predictor), **options))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()
    left = [t for t in set(threading.enumerate()) - before if t.is_alive()]
    assert not left, left


@pytest.fixture
def server(serve):
    return serve()


@pytest.fixture
def slow(tiny):
    """A predictor whose network waits until `go` is set."""
    predictor = Predictor(tiny)
    predictor.go = threading.Event()
    segment = predictor.segment

    def wait_and_segment(images):
        if images[0].shape[:2] != (64, 64):  # that of the first call
            assert predictor.go.wait(120)
        return segment(images)

    predictor.segment = wait_and_segment
    yield predictor
    predictor.go.set()


def image_file(seed=0, size=(65, 33), kind="PNG", **options):
    """The bytes of an image of coloured clouds."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()
