"""Pages that are served, visited and closed; nothing of them stays open."""

import asyncio
import gc
import socket
from pathlib import Path

import pytest

from pspnet_zoo import Labels, PSPNet

pytest.importorskip("gradio", reason="needs the extra 'demo'")
gradio_client = pytest.importorskip("gradio_client")

from pspnet_zoo.demo import app  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _event_loops():
    """Close the event loops that Gradio makes where none is running and leaves behind; then nothing may be left to collect."""
    made, new = [], asyncio.new_event_loop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", lambda: made.append(new()) or made[-1])
        yield
    for loop in made:
        loop.close()
    asyncio.set_event_loop(None)
    gc.collect()  # what is open still would be warned of here, where it was made


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A checkpoint that is fast."""
    network = PSPNet("test_efficientnet", None, classes=3, psp_out_channels=16)
    network.labels = Labels(("road", "sky", "car"), ((128, 64, 128), (70, 130, 180), (0, 0, 142)))
    return network.save_pretrained(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def serve(_event_loops):
    """A function that serves a page of some models and gives its address."""
    pages = []

    def serve(models, *, zoo=False, **options) -> str:
        page = app.build(models, zoo=zoo)
        pages.append(page)
        with socket.create_server(("127.0.0.1", 0)) as free:  # Gradio leaves a socket open for each port that it finds taken
            port = free.getsockname()[1]
        return app.launch(page, server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, **options)[1]

    yield serve
    for page in pages:
        page.close(verbose=False)


@pytest.fixture
def visit():
    """A function that gives a client of an address."""
    clients = []

    def visit(address: str, **options):
        patient = {"timeout": 120}  # seconds; of a busy machine, whose uploads took more than httpx's 5
        client = gradio_client.Client(address, verbose=False, analytics_enabled=False, httpx_kwargs=patient, **options)
        clients.append(client)
        return client

    yield visit
    for client in clients:
        client.close()
