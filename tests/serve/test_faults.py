"""Requests that are wrong, hostile or slow: each gets a sentence, none gets a file, and the server answers the next."""

import io
import json
import socket
import struct
import tempfile
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from pspnet_zoo.serve import server as module

from .conftest import image_file

PATHS = ("/etc/passwd", "../../../../etc/passwd", "file:///etc/passwd", "/proc/self/environ")


def png(width, height, data=b""):
    """A PNG whose header states a size."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def eps():
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "EPS")
    return buffer.getvalue()


def check_sentence(answer, status, text):
    """An error is JSON with a sentence that has no path, address in memory or traceback."""
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert (
        text in detail and detail[0].isupper() and not any(part in detail for part in ("/home", "/tmp", "0x", "Traceback", "root:"))
    )
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("content", "kind", "status", "text"),
    [
        (b"", "image/png", 400, "There is no image"),
        (b"this is a text", "image/png", 415, "is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 415, "is not an image"),
        (eps(), "image/png", 415, "is a EPS file; accepted are AVIF"),
        (image_file()[:-400], "image/png", 422, "cannot be read"),
        (image_file(kind="JPEG")[:300], "image/jpeg", 422, "cannot be read"),
        (image_file()[:20], "image/png", 422, "The file"),
        (png(20_000, 20_000), "image/png", 413, "more than 50 megapixels"),
        (png(9_000, 9_000, bytes(1000)), "image/png", 413, "more than 50 megapixels"),
        (png(100_000, 1), "image/png", 422, "longer side may be 50 times"),
        (png(8, 8, bytes(10_000_000)), "image/png", 200, ""),  # Pillow stops at the pixels that the header states
        (image_file(), "text/plain", 415, "Content-Type"),
        (image_file(), "application/x-www-form-urlencoded", 415, "Content-Type: image/jpeg"),
        (b'{"path": "/etc/passwd"}', "application/json", 415, "Content-Type"),
        (image_file(), "multipart/form-data", 400, "form cannot be read"),
        (image_file(), "multipart/form-data; boundary=x", 400, "form cannot be read"),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400, "form cannot be read"),
        (b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc', "multipart/form-data; boundary=x", 400, "form cannot"),
        (b"--x\r\nA: b\r\n\r\nabc\r\n--x--\r\n", "multipart/form-data; boundary=x", 400, "another field than 'image'"),
        (b"--x\r\n" + b"A: b\r\n" * 1000, "multipart/form-data; boundary=x", 400, "form cannot be read"),
        (b"--x\r\nA: " + b"b" * 100_000, "multipart/form-data; boundary=x", 400, "form cannot be read"),
        (image_file(), "multipart/form-data; boundary=" + "x" * 5000, 400, "form cannot be read"),
    ],
    ids=lambda v: f"{v[:30]}" if isinstance(v, bytes | str) else str(v),
)
def test_what_is_no_image_gets_a_sentence(shared, content, kind, status, text):
    answer = shared.send(content, kind=kind)
    if status == 200:
        assert answer.status_code == 200
    else:
        check_sentence(answer, status, text)
    assert shared.send(image_file()).status_code == 200


@pytest.fixture(scope="module")
def shared(predictor):
    from .conftest import Server

    server = Server(predictor, silence=1.0)
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"min_area": "-1"}, "min_area: Input should be greater"),
        ({"simplify": "inf"}, "simplify: Input should be less"),
        ({"simplify": "nan"}, "simplify: "),
        ({"polygons": "maybe"}, "polygons: Input should be a valid boolean"),
        ({"image": "/etc/passwd"}, "There is no option 'image'; there are polygons, simplify, min_area"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(shared, params, text):
    answer = shared.send(image_file(), accept="application/json", params=params)
    assert answer.status_code == 422 and text in answer.json()["detail"]


def test_options_that_change_nothing_and_answers_that_are_not_there_are_refused(shared):
    check_sentence(shared.send(image_file(), accept="text/html"), 406, "image/png")
    answer = shared.send(image_file(), params={"min_area": 3})
    assert answer.status_code == 400 and "min_area is for Accept: application/json" in answer.json()["detail"]
    check_sentence(shared.send(image_file(), content_encoding="gzip"), 415, "Content-Encoding")


def test_no_path_in_any_field_opens_a_file(shared):
    secret = Path("/etc/passwd").read_text().splitlines()[0]
    with shared.client() as client:
        answers = []
        for path in PATHS:
            answers += [
                client.post("/v1/segment", content=path.encode(), headers={"content-type": "image/png"}),
                client.post("/v1/segment", content=image_file(), headers={"content-type": path}),
                client.post("/v1/segment", content=image_file(), headers={"content-type": "image/png", "accept": path}),
                client.post("/v1/segment", json={"image": path}),
                client.post("/v1/segment", data={"image": path}),
                client.post("/v1/segment", files={"image": (path, path.encode(), "image/png")}),
                client.post("/v1/segment", files={path: ("a.png", image_file(), "image/png")}),
                client.post("/v1/segment", params={"image": path, "model": path}, content=image_file()),
                client.post("/v1/segment", params={"simplify": path}, content=image_file()),
                client.get(f"/docs/{path}"),
                client.get(f"/{path}"),
                client.get("/docs/..%2f..%2f..%2f..%2fetc%2fpasswd"),
                client.get("/v1/models", params={"name": path}),
            ]
    assert all(secret not in answer.text for answer in answers)
    assert {answer.status_code for answer in answers} <= {200, 400, 404, 406, 415, 422}
    assert all(answer.status_code != 200 or "tiny" in answer.text for answer in answers)  # the list of models


def test_a_form_of_several_fields_or_without_the_image_is_refused(shared):
    with shared.client() as client:
        several = client.post("/v1/segment", files=[("image", image_file()), ("image", image_file())])
        other = client.post("/v1/segment", files={"file": image_file()})
    check_sentence(several, 400, "several fields")
    check_sentence(other, 400, "send the file as the field 'image'")


def test_a_body_beyond_the_limit_is_refused_whether_its_size_is_stated_or_not(serve):
    server = serve(bytes=100_000)
    check_sentence(server.send(bytes(100_001)), 413, "more than 0.1 MB")
    check_sentence(server.send(bytes(1000) for _ in range(3000)), 413, "more than 0.1 MB")
    with server.client() as client:
        check_sentence(client.post("/v1/segment", files={"image": bytes(100_000)}), 413, "more than 0.1 MB")
    assert server.send(image_file()).status_code == 200 and server.inside() == 0


def answer_of(port, *parts, pause=0.0):
    """Send bytes with pauses; gives what came back until the server closed the connection, and the seconds."""
    start, received = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port)) as connection:

        def send():
            with suppress(OSError):
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)

        sender = threading.Thread(target=send)
        sender.start()
        connection.settimeout(60)
        with suppress(ConnectionError):
            while block := connection.recv(65536):
                received += block
        seconds = time.monotonic() - start
        sender.join()
    return received, seconds


HEAD = b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"


def test_a_slow_body_is_given_up_and_its_place_is_free(shared, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 1)
    silent, seconds = answer_of(shared.port, HEAD + b"Content-Length: 1000\r\n\r\nabc")
    assert silent.startswith(b"HTTP/1.1 408") and b"did not arrive in time" in silent and seconds < 10
    assert shared.inside() == 0


def test_a_body_that_drips_is_given_up_at_the_deadline(serve, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 1)
    server = serve(seconds=1.0)
    drips = [HEAD + b"Content-Length: 1000\r\n\r\n", *[b"a"] * 20]
    received, seconds = answer_of(server.port, *drips, pause=0.2)
    assert received.startswith(b"HTTP/1.1 408") and seconds < 20


@pytest.mark.parametrize("drip", [[b"GET /healthz HTTP/1.1\r\n"], [b"G", b"E", b"T", b" ", b"/", b"h", b"e", b"a"], [b""]], ids=str)
def test_headers_that_do_not_come_end_the_connection(shared, monkeypatch, drip):
    monkeypatch.setattr(module, "IDLE_SECONDS", 1)
    received, seconds = answer_of(shared.port, *drip, pause=0.3)
    assert received == b"" and 0.9 < seconds < 10


def test_a_refused_body_is_not_taken_for_ever(shared, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 1)
    received, seconds = answer_of(
        shared.port, HEAD.replace(b"image/png", b"text/plain") + b"Content-Length: 9000000\r\n\r\n", *[bytes(1000)] * 40, pause=0.1
    )
    assert received.startswith(b"HTTP/1.1 415") and seconds < 10


def test_a_huge_header_is_refused(shared):
    for head in (
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000,
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 40_000,
    ):
        received, seconds = answer_of(shared.port, head)
        assert (received == b"" or received.startswith(b"HTTP/1.1 4")) and seconds < 10
    assert shared.send(image_file()).status_code == 200


def test_what_is_no_http_is_refused(shared):
    for text in (
        b"\x16\x03\x01\x02\x00",
        b"hello\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: x\r\n\r\n",
    ):
        assert answer_of(shared.port, text)[0].startswith(b"HTTP/1.1 400")


def test_a_client_that_leaves_while_sending_leaves_its_place(shared):
    with socket.create_connection(("127.0.0.1", shared.port)) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\nabc")
    shared.wait_inside(0)


def test_a_failure_inside_is_a_sentence_without_its_reason_and_its_place_is_free(serve, slow, caplog):
    def fail(images):
        raise RuntimeError("/home/me/weights are broken" if images[0].shape[0] == 33 else "not enough memory: 0x123")

    server = serve(predictor=slow)
    slow.segment = fail
    check_sentence(server.send(image_file()), 500, "Whoever runs this server finds the reason")
    check_sentence(server.send(image_file(size=(40, 40))), 503, "not enough memory for the image")
    assert "/home/me" in caplog.text and server.inside() == 0


def test_no_file_is_written(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with shared.client() as client:
        file = image_file(size=(1000, 800), kind="BMP")
        assert len(file) > 1_000_000  # which Starlette would put on the disk
        assert client.post("/v1/segment", files={"image": ("a.png", file, "image/png")}).status_code == 200
    assert list(tmp_path.iterdir()) == []


def test_errors_are_json_of_one_shape(shared):
    with shared.client() as client:
        for answer in (client.get("/v1/segment"), client.get("/nowhere"), client.post("/v1/segment")):
            assert list(json.loads(answer.text)) == ["detail"]
