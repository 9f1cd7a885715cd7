"""What visitors may do to the machine that runs the page."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

from pspnet_zoo import Predictor
from pspnet_zoo.data.images import ImageError

gradio = pytest.importorskip("gradio", reason="needs the extra 'demo'")
gradio_client = pytest.importorskip("gradio_client")

from pspnet_zoo.demo import app, visitors  # noqa: E402
from pspnet_zoo.demo.models import Models  # noqa: E402
from pspnet_zoo.storage.errors import WeightsError  # noqa: E402

pytestmark = pytest.mark.filterwarnings(  # all of them Gradio's own; the last where a browser leaves during a download
    "ignore::DeprecationWarning",
    "ignore::PendingDeprecationWarning",
    "ignore:unclosed file <_io.FileIO name='.*/pspnet_zoo_demo_:ResourceWarning",
    "ignore:Exception ignored in. <_io.FileIO name='.*/pspnet_zoo_demo_:pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(scope="module")
def address(serve, tiny):
    return serve([str(tiny)])


@pytest.fixture
def secret(tmp_path) -> Path:
    """An image of the machine that nobody has uploaded."""
    Image.new("RGB", (64, 48)).save(tmp_path / "secret.png")
    return tmp_path / "secret.png"


def answer(address: str, function: dict, data: list) -> dict:
    """The last message that the page sends of a request for one of its functions."""
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        request = {"data": data, "session_hash": "visitor", "event_data": None, **function}
        client.post("/gradio_api/queue/join", json=request).raise_for_status()
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "visitor"}) as lines:
            for line in lines.iter_lines():
                if line.startswith("data: ") and (message := json.loads(line[6:]))["msg"] == "process_completed":
                    return message
    raise AssertionError("the page did not answer")


def inputs(address: str) -> list[tuple[dict, list[str]]]:
    """Each function of the page that takes a file, with its inputs' types."""
    config = httpx.get(f"{address}config", trust_env=False).json()
    kinds = {component["id"]: component["type"] for component in config["components"]}
    functions = [({"fn_index": d["id"]}, [kinds[i] for i in d["inputs"]]) for d in config["dependencies"] if d["backend_fn"]]
    return [(function, types) for function, types in functions if {"image", "video", "file"} & set(types)]


MARK = {"meta": {"_type": "gradio.FileData"}}  # with it, Gradio checks the path itself


def test_no_function_of_any_tab_opens_a_file_that_was_not_uploaded(address, tiny, secret):
    cache = Path(gradio.utils.get_upload_folder())
    link, pipe = cache / "link.png", cache / "pipe.png"
    link.symlink_to(secret)
    os.mkfifo(pipe)
    functions, told = inputs(address), {}
    assert {"image"} <= {kind for _, types in functions for kind in types}
    paths = [secret, link, pipe, cache / ".." / secret.relative_to("/"), "/dev/ptmx", "/nowhere.png"]
    try:
        for function, types in functions:
            for path, mark in [*((path, {}) for path in paths), (secret, MARK), ("http://127.0.0.1:9/a.png", MARK)]:
                file = {"path": str(path), **mark}
                values = {"image": file, "video": file, "dropdown": "tiny", "slider": 1}
                said = answer(address, function, [values[kind] for kind in types])
                assert not said["success"] and not said["output"].get("data"), (path, types, mark, said)
                told.setdefault((*types, bool(mark)), set()).add(re.sub(r"Cannot move \S+", "", str(said["output"])))
        assert all(len(messages) <= 1 + marked for (*_, marked), messages in told.items()), "messages tell which files exist"
    finally:
        link.unlink()
        pipe.unlink()


def test_visitors_see_no_path_of_a_model(serve, visit, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "tiny")
    address = serve([str(tiny), str(tmp_path / "tiny"), "pspnet_lite0.camvid"])
    with httpx.Client(base_url=address, trust_env=False) as client:
        seen = "".join(client.get(path).text for path in ("/", "/config", "/gradio_api/info"))
    assert "tiny (2)" in seen and str(tiny) not in seen and str(tmp_path) not in seen
    Image.new("RGB", (40, 33), (9, 99, 200)).save(tmp_path / "street.png")
    *_, fractions = visit(address).predict(gradio_client.handle_file(str(tmp_path / "street.png")), "tiny (2)", api_name="/segment")
    assert sum(fractions.values()) == pytest.approx(1, abs=1e-3)


def test_a_folder_with_the_name_of_a_checkpoint_of_the_zoo_is_told_apart(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "pspnet_lite0.camvid")
    offered = Models([str(tmp_path / "pspnet_lite0.camvid"), "pspnet_lite0.camvid"], zoo=False)
    assert [name for _, name in offered.choices] == ["pspnet_lite0.camvid (2)", "pspnet_lite0.camvid"]
    assert offered.predictor("pspnet_lite0.camvid (2)").labels.names == ("road", "sky", "car")
    assert len(offered.predictor("pspnet_lite0.camvid").labels) == 11


def test_a_folder_in_the_working_directory_does_not_take_the_place_of_a_checkpoint_of_the_zoo(tiny, tmp_path, monkeypatch):
    offered = Models(["pspnet_lite0.camvid", str(tiny)], zoo=True)
    shutil.copytree(tiny, tmp_path / "pspnet_lite0.camvid")
    monkeypatch.chdir(tmp_path)
    assert len(offered.predictor("pspnet_lite0.camvid").labels) == 11
    assert offered.public_name(str(tiny)) == "tiny" and offered.public_name("pspnet_lite0.camvid") == "pspnet_lite0.camvid"


def test_visitors_who_come_at_once_share_one_loaded_model(tiny):
    offered, start = Models([str(tiny)], zoo=False), threading.Barrier(4)

    def come(_: int) -> Predictor:
        start.wait()
        return offered.predictor("tiny")

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(come, range(4))
    assert all(other is first for other in others)


@pytest.mark.parametrize(
    "disposition, status",
    [
        ('form-data; name="files"; filename=""', 200),
        ('form-data; name="files"; filename=', 200),
        ('form-data; name="files"', 400),
        ('form-data; name="files"; filename=".."', 400),
    ],
)
def test_an_upload_without_a_file_name_ends_in_no_traceback(address, disposition, status, caplog):
    body = f"--B\r\nContent-Disposition: {disposition}\r\n\r\nabc\r\n--B--\r\n"
    with httpx.Client(base_url=address, trust_env=False) as client:
        kind = {"content-type": "multipart/form-data; boundary=B"}
        assert client.post("/gradio_api/upload", content=body.encode(), headers=kind).status_code == status
    assert "Traceback" not in caplog.text


def test_an_upload_is_opened_where_it_lies(address, visit, tiny, secret):
    before = len(list(Path(gradio.utils.get_upload_folder()).rglob("secret.png")))
    visit(address).predict(gradio_client.handle_file(str(secret)), "tiny", api_name="/segment")
    assert len(list(Path(gradio.utils.get_upload_folder()).rglob("secret.png"))) == before + 1


def test_wrong_passwords_are_refused_after_ten(serve, tiny):
    with httpx.Client(base_url=serve([str(tiny)], auth=("me", "right")), trust_env=False) as client:
        said = [client.post("/login", data={"username": "me", "password": f"wrong{i}"}) for i in range(12)]
        assert [answer.status_code for answer in said] == [400] * 10 + [429] * 2
        assert "try again in" in said[-1].text and int(said[-1].headers["retry-after"]) > 0
        assert client.post("/login", data={"username": "me", "password": "right"}).status_code == 429


def test_the_right_password_is_let_in_again_and_again(serve, tiny):
    with httpx.Client(base_url=serve([str(tiny)], auth=("me", "right")), trust_env=False) as client:
        assert all(client.post("/login", data={"username": "me", "password": "right"}).status_code == 200 for _ in range(12))


def test_messages_have_no_path_and_no_command_of_the_machine(caplog):
    file = "/tmp/gradio/abc/street.jpg"
    assert visitors.message(ImageError(f"'{file}' is damaged"), file) == "'street.jpg' is damaged"
    for error in (WeightsError("no '/home/me/x'; run hf auth login"), OSError("'/home/me'"), RuntimeError("/x: not enough memory")):
        said = visitors.message(error, file)
        assert "/" not in said and "hf" not in said
    assert "hf auth login" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_copy_of_a_photo_stays_when_the_page_ends(visit, tiny, secret, tmp_path, number):
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "pspnet_zoo.cli", "demo", "--no-zoo", "--no-browser", "--model", str(tiny)]
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    environment["TMPDIR"] = str(tmp_path / "tmp")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[4].rstrip(";")
            visit(address, download_files=False).predict(gradio_client.handle_file(str(secret)), "tiny", api_name="/segment")
            assert len(list((tmp_path / "tmp").rglob("*.png"))) == 3  # the photo, the overlay and the mask
            process.send_signal(number)
            process.wait(30)
        finally:
            process.kill()
    assert process.returncode == 128 + number and not list((tmp_path / "tmp").rglob("*.png"))


def test_what_the_page_writes_is_in_the_cache_and_forgotten_in_time(tiny):
    page = app.build([str(tiny)], zoo=False)
    folder = visitors.result_folder()
    assert folder.parent == Path(gradio.utils.get_upload_folder()) and page.delete_cache == (600, 3600)
    folder.rmdir()
    app.build([str(tiny)], zoo=False)  # a second page in one process
    assert folder.parent == Path(gradio.utils.get_upload_folder())


def test_gradio_still_calls_what_is_replaced(tiny):
    """The page replaces two methods of its input components; a version of Gradio that has others must not pass in silence."""
    page = app.build([str(tiny)], zoo=False)
    photo = next(block for block in page.blocks.values() if isinstance(block, gradio.Image))
    for method in ("preprocess", "async_move_resource_to_block_cache"):
        assert callable(getattr(gradio.Image, method)) and getattr(photo, method) is not getattr(gradio.Image, method)
    with pytest.raises(gradio.Error, match="uploaded files only"):
        photo.preprocess(gradio.data_classes.ImageData(path="/etc/hostname"))
    start = time.monotonic()
    with pytest.raises(gradio.Error, match="uploaded files only"):
        visitors.uploaded("/dev/ptmx")
    assert time.monotonic() - start < 1


def test_what_visitors_store_is_bounded(address, monkeypatch):
    cache = Path(gradio.utils.get_upload_folder())
    monkeypatch.setattr(visitors, "MAX_FILES", 3 + len([f for f in cache.rglob("*") if f.is_file()]))
    names = [f"own{i}.png" for i in range(6)]
    with httpx.Client(base_url=address, trust_env=False) as client:
        for name in names:
            assert client.post("/gradio_api/upload", files={"files": (name, name.encode(), "image/png")}).status_code == 200
    there = {file.name for file in cache.rglob("own*")}
    assert {"own4.png", "own5.png"} <= there  # the newest stay, whatever was there before
    monkeypatch.setattr(visitors, "MAX_STORED", 0)
    visitors.result_folder().rmdir()  # results make room too
    stay = sorted(file.name for file in cache.rglob("*") if file.is_file())
    assert stay == [file.name for file in app.EXAMPLES]  # which the page shows to the next visitor


def test_room_is_made_while_other_threads_do_so_and_folders_vanish(tmp_path, monkeypatch):
    monkeypatch.setattr(visitors, "MAX_FILES", 3)
    end = threading.Event()

    def come_and_go() -> None:
        while not end.is_set():
            for folder in (tmp_path / f"{i}" for i in range(20)):
                with suppress(OSError):  # another thread made room
                    (folder / "deep").mkdir(parents=True, exist_ok=True)
                    (folder / "deep" / "a.png").write_bytes(b"a")
            for i in range(20):
                shutil.rmtree(tmp_path / f"{i}", ignore_errors=True)

    with ThreadPoolExecutor(3) as pool:
        pool.submit(come_and_go)
        try:
            makers = [pool.submit(lambda: [visitors.make_room(tmp_path) for _ in range(200)]) for _ in range(2)]
            for maker in makers:
                maker.result()
        finally:
            end.set()


@pytest.mark.parametrize("there", ["shared", "new/deep"])
def test_the_page_keeps_to_a_folder_of_its_own_in_that_of_gradio_temp_dir(tmp_path, monkeypatch, there):
    photo = tmp_path / there / "photo.png"
    if there == "shared":
        photo.parent.mkdir()
        photo.write_bytes(b"of somebody else")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / there))
    visitors.use_private_cache.__wrapped__()
    monkeypatch.setattr(visitors, "MAX_STORED", 0)
    own = visitors.result_folder().parent
    assert own.parent == tmp_path / there and photo.exists() == (there == "shared")
    with pytest.raises(gradio.Error, match="uploaded files only"):
        visitors.uploaded(str(photo))


def test_no_request_passes_the_queue_by(address):
    with httpx.Client(base_url=address, trust_env=False) as client:
        for function, _ in inputs(address):
            for route in ("api/segment", "run/segment", "run/predict"):
                assert client.post(f"/gradio_api/{route}", json={"data": [None, "tiny"], **function}).status_code == 404


def test_an_upload_of_many_files_is_refused_by_their_size_together(address, monkeypatch):
    monkeypatch.setattr(visitors, "MAX_BODY", 5000)
    with httpx.Client(base_url=address, trust_env=False) as client:
        files = [("files", (f"many{i}.png", b"0" * 1000, "image/png")) for i in range(10)]
        assert client.post("/gradio_api/upload", files=files).status_code == 413
        request = client.build_request("POST", "/gradio_api/upload", files=files)
        body, kind = request.read(), request.headers["content-type"]
        try:
            sent = client.post("/gradio_api/upload", content=iter([body]), headers={"content-type": kind})  # it states no length
            assert sent.status_code >= 400
        except httpx.RemoteProtocolError:
            pass
    assert not list(Path(gradio.utils.get_upload_folder()).rglob("many*"))


def test_routes_of_gradio_that_the_page_does_not_use_are_closed(address, secret):
    files = {"video": ("a.mp4", b"ffconcat version 1.0\nfile 'other.mp4'\n", "video/mp4")}
    unused = ("/gradio_api/monitoring", "/monitoring/summary", "/gradio_api/dev/reload", "/gradio_api/proxy=http://127.0.0.1:9/a")
    with httpx.Client(base_url=address, timeout=10, trust_env=False) as client:
        assert client.post("/gradio_api/process_recording", files=files).status_code == 404
        assert [client.get(path).status_code for path in unused] == [404] * len(unused)
        assert [client.get(path).status_code for path in ("/", "/config", "/gradio_api/info")] == [200] * 3
