"""What the server answers to good requests."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.importers.regions import fill
from pspnet_zoo.serve.answers import SegmentOptions, accepted

from .conftest import image_file

GPS = {1: "N", 2: (52.0, 5.0, 13.37), 3: "E", 4: (4.0, 18.0, 0.0)}


def pixels_of(answer):
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image)


def test_a_mask_is_that_of_the_predictor(server, predictor):
    answer = server.send(image_file())
    wanted = predictor(io.BytesIO(image_file())).mask
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert len(np.unique(wanted)) > 1 and np.array_equal(pixels_of(answer), wanted)


def test_an_overlay_is_that_of_the_predictor(server, predictor):
    answer = server.send(image_file(), accept="image/jpeg")
    buffer = io.BytesIO()
    predictor(io.BytesIO(image_file())).overlay().save(buffer, "JPEG", quality=90)
    assert answer.headers["content-type"] == "image/jpeg" and answer.content == buffer.getvalue()


def test_json_has_fractions_and_polygons_that_are_the_mask(server, predictor):
    prediction = predictor(io.BytesIO(image_file()))
    answer = server.send(image_file(), accept="application/json").json()
    assert (answer["model"], answer["width"], answer["height"]) == ("tiny", 65, 33)
    assert [c["name"] for c in answer["classes"]] == ["road", "sky", "car"] and answer["classes"][2]["color"] == [0, 0, 142]
    assert [c["fraction"] for c in answer["classes"]] == list(prediction.class_fractions.values())
    mask = np.full((33, 65), 255)
    for polygon in answer["polygons"]:
        inside = fill(np.array(polygon["exterior"]), 33, 65)
        for hole in polygon["holes"]:
            inside &= ~fill(np.array(hole), 33, 65)
        assert inside.sum() == polygon["area"]
        mask[inside] = polygon["class_id"]
    assert np.array_equal(mask, prediction.mask)


def test_options_change_the_polygons(server):
    def polygons(**params):
        return server.send(image_file(), accept="application/json", params=params).json()["polygons"]

    everything = polygons()
    assert polygons(polygons=False) is None
    assert polygons(min_area=900) == [p for p in everything if p["area"] >= 900] != everything
    assert sum(len(p["exterior"]) for p in polygons(simplify=2)) < sum(len(p["exterior"]) for p in everything)


def test_a_form_and_a_body_give_the_same_whatever_the_file_is_called(server):
    with server.client() as client:
        forms = [
            client.post("/v1/segment", files={"image": (name, image_file(), kind)}, headers={"accept": "image/png"})
            for name, kind in (("street.png", "image/png"), ("../../etc/passwd", "text/plain"), ("", "application/x"))
        ]
    assert {form.content for form in forms} == {server.send(image_file(), kind="application/octet-stream").content}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_no_metadata_of_the_image_comes_out(server, kind):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x8298] = "SECRETCAMERA", 6, "SECRETNAME"
    exif.get_ifd(0x8825).update(GPS)
    extra = {"comment": b"SECRETNOTE"} if kind == "JPEG" else {}
    file = image_file(kind=kind, exif=exif, **extra)
    assert b"SECRETCAMERA" in file
    for accept in ("image/png", "image/jpeg", "application/json"):
        answer = server.send(file, accept=accept)
        assert answer.status_code == 200 and b"SECRET" not in answer.content and b"13.37" not in answer.content
        if accept != "application/json":
            with Image.open(io.BytesIO(answer.content)) as image:
                assert image.size == (33, 65) and not dict(image.getexif()) and not {"exif", "comment", "xmp"} & set(image.info)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("image/*", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("text/html, image/png;q=0.8, */*;q=0.1", "image/png"),
        ("image/png;q=0, */*", "application/json"),
        ("IMAGE/PNG", "image/png"),
        ("application/json;q=0.2, image/jpeg;q=0.3", "image/jpeg"),
    ],
)
def test_accept_chooses_the_answer(header, kind):
    assert accepted(header) == kind


@pytest.mark.parametrize(("header", "status"), [("text/html", 406), ("image/webp", 406), ("*/*;q=0", 406), ("image/png;q=x", 400)])
def test_accept_of_something_else_is_refused(header, status):
    with pytest.raises(Exception, match=str(status)) as error:
        accepted(header)
    assert error.value.status_code == status


def test_models_are_listed_with_what_a_client_has_to_know(server, predictor):
    with server.client() as client:
        (model,) = client.get("/v1/models").json()["models"]
    assert model["name"] == "tiny" and [c["id"] for c in model["classes"]] == [0, 1, 2]
    assert model["weights_sha256"] == predictor.runtime.weights_sha256 and model["max_pixels"] == 50_000_000


def test_metrics_count_answers_by_status_and_images(server):
    server.send(image_file())
    server.send(b"no image")
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    for line in (
        'pspnet_zoo_requests_total{status="200"} 1.0',
        'pspnet_zoo_requests_total{status="415"} 1.0',
        "pspnet_zoo_images_total 1.0",
        "pspnet_zoo_network_seconds_count 1.0",
        "pspnet_zoo_request_seconds_count 2.0",
        "pspnet_zoo_requests_inside 0.0",
    ):
        assert line in lines
    assert any(line.startswith("process_resident_memory_bytes") for line in lines)


def test_a_server_is_alive_before_its_model_is_loaded(serve, predictor):
    go = threading.Event()
    server = serve(load=lambda: go.wait(60) and predictor)
    try:
        with server.client() as client:
            assert client.get("/healthz").json() == {"status": "alive"}
            assert client.get("/readyz").status_code == client.get("/v1/models").status_code == 503
            early = server.send(image_file())
            assert early.status_code == 503 and "is being loaded" in early.json()["detail"] and early.headers["retry-after"] == "5"
            go.set()
            server._ready.wait(60)
            assert client.get("/readyz").status_code == 200
    finally:
        go.set()


def test_a_model_that_cannot_be_loaded_ends_the_server(serve):
    def load():
        raise ValueError("no weights")

    server = serve(load=load)
    server.thread.join(60)
    assert str(server.error) == "no weights"


def test_the_page_describes_every_address_and_asks_no_other_host(server, browse):
    page = browse(f"{server.address}/docs")
    for address in ("/v1/segment", "/v1/models", "/metrics", "/healthz", "/readyz"):
        page.wait_for_selector(f"[data-path='{address}']")
    with server.client() as client:
        described = client.get("/openapi.json").json()
    segment = described["paths"]["/v1/segment"]["post"]
    assert set(segment["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert set(segment["responses"]["200"]["content"]) == {"application/json", "image/png", "image/jpeg"}
    assert {"400", "401", "413", "415", "429", "504"} <= set(segment["responses"])
    assert "HTTPBearer" in json.dumps(segment["security"])


def check_no_answer_is_mixed(server, predictor, clients, seconds):
    """Many clients at once, images of several sizes: every answer is that of its own image."""
    files = [image_file(seed, size) for seed, size in enumerate([(65, 33), (33, 65), (40, 40), (65, 33), (90, 20), (65, 33)])]
    wanted = [predictor(io.BytesIO(file)) for file in files]
    assert len({p.mask.tobytes() for p in wanted}) == len(files)
    end, counts = time.monotonic() + seconds, {200: 0, 429: 0}

    def use(number):
        done = 0
        with server.client() as client:
            while done < 3 or time.monotonic() < end:
                which = (number + done) % len(files)
                accept = "image/png" if number % 2 else "application/json"
                headers = {"accept": accept, "content-type": "image/png"}
                answer = client.post("/v1/segment", content=files[which], headers=headers)
                counts[answer.status_code] += 1
                if answer.status_code == 429:
                    assert answer.headers["retry-after"]
                    continue
                if number % 2:
                    assert np.array_equal(pixels_of(answer), wanted[which].mask)
                else:
                    fractions = [c["fraction"] for c in answer.json()["classes"]]
                    assert fractions == list(wanted[which].class_fractions.values())
                done += 1

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(use, range(clients)))
    return counts


def test_no_answer_is_mixed_among_clients_at_once(serve, predictor):
    counts = check_no_answer_is_mixed(serve(workers=2, waiting=30), predictor, clients=10, seconds=0)
    assert counts[200] == 30


def test_a_gpu_gets_images_of_one_size_in_a_batch(serve, slow, monkeypatch):
    sizes, segment = [], slow.segment
    slow.device = SimpleNamespace(type="cuda")

    def watched(images):
        sizes.append(len(images))
        return segment(images) if len(images) == 1 else [segment([image])[0] for image in images]

    slow.segment = watched
    server = serve(predictor=slow)
    files = [image_file(seed, size) for seed, size in enumerate([(65, 33), (65, 33), (40, 40), (65, 33), (65, 33)])]
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(server.send, files[0])
        server.wait_inside(1)
        others = []
        for count, file in enumerate(files[1:], 2):
            others.append(pool.submit(server.send, file))
            server.wait_inside(count)
        slow.go.set()
        answers = [future.result() for future in (first, *others)]
    for file, answer in zip(files, answers, strict=True):
        with Image.open(io.BytesIO(answer.content)) as mask, Image.open(io.BytesIO(file)) as image:
            assert mask.size == image.size
    assert sorted(sizes[1:]) == [1, 1, 3]  # after the first call: the first alone, then three of a size, and one


def test_options_are_checked_for_what_they_change():
    with pytest.raises(Exception, match="min_area, simplify is for Accept: application/json"):
        SegmentOptions(min_area=1, simplify=2).check_for("image/png")
    with pytest.raises(Exception, match="min_area is for polygons"):
        SegmentOptions(min_area=1, polygons=False).check_for("application/json")
