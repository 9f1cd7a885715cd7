"""Signals x moments x commands: what was done is kept and said, nothing half is left, and the exit code names the signal."""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from pspnet_zoo.data.importers import write
from pspnet_zoo.deployment import export
from pspnet_zoo.results import report
from pspnet_zoo.results.report import ReportWriter
from pspnet_zoo.results.sink import ResultSink
from pspnet_zoo.runtimes.torch import TorchRuntime

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    """Heard, also where the tests run in the background or under nohup, which ignore some."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send_at(monkeypatch, place, name, number, call=1):
    """Send the signal to this process when a function is called for the `call`-th time, in whatever thread that is."""
    original, calls = getattr(place, name), []

    def function(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
            time.sleep(0.05 * (threading.current_thread() is not threading.main_thread()))  # until the main thread has heard it
        return original(*arguments, **options)

    monkeypatch.setattr(place, name, function)


def heard_inside(manager, number):
    """The same context manager; the signal arrives when it is entered."""

    @contextmanager
    def entered():
        with manager():
            os.kill(os.getpid(), number)
            yield

    return entered


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(8):
        Image.effect_noise((24, 16), 60).convert("RGB").save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("moment", ["the first image", "the network", "writing", "a row", "closing"])
def test_predict_keeps_the_report_of_what_was_done(run, model, photos, tmp_path, monkeypatch, number, moment):
    place, name, call = {
        "the first image": (TorchRuntime, "__call__", 1),
        "the network": (TorchRuntime, "__call__", 4),
        "writing": (ResultSink, "write", 3),
        "a row": (ReportWriter, "add", 2),
        "closing": (report, "_signals_held", 1),
    }[moment]
    if moment == "closing":
        monkeypatch.setattr(report, "_signals_held", heard_inside(report._signals_held, number))
    else:
        send_at(monkeypatch, place, name, number, call)
    arguments = ["predict", photos, "-o", tmp_path / "out", "--model", model, "--report", tmp_path / "r.csv", "--workers", 2]
    code, _, err = run(*arguments, "--masks-only")
    assert code == 128 + number and "--skip-existing continues" in err and "Traceback" not in err
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = {Path(row["path"]).stem for row in csv.DictReader(file)}
    masks = {path.name.removesuffix("_mask.png") for path in (tmp_path / "out").iterdir()}
    assert rows <= masks and len(masks - rows) <= (moment == "a row") and (moment == "closing" or len(masks) < 8)
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    monkeypatch.undo()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("moment", ["open_source", "pack_model", "_start", "_results"])
def test_bulk_releases_its_destination(run, model, photos, tmp_path, monkeypatch, number, moment):
    pytest.importorskip("ray", reason="the extra bulk is not installed")
    from pspnet_zoo.bulk import driver
    from pspnet_zoo.bulk.shards import Destination

    def results(*_):
        yield {"problem": "", "ended": 2.0, "seconds": 1.0, "images": 8, "failures": 0, "worker": "here:1"}
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(driver, "_start", lambda address: None)
    monkeypatch.setattr(driver, "_results", results)
    if moment != "_results":
        send_at(monkeypatch, driver, moment, number)
    code, _, err = run("bulk", photos, tmp_path / "out", "--model", model)
    assert code == 128 + number and "the same command continues" in err and "Traceback" not in err
    with Destination(str(tmp_path / "out")).locked():
        pass


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("moment", ["the first image", "a later image", "the classes"])
def test_an_import_appears_whole_or_not_at_all(run, photos, tmp_path, monkeypatch, number, moment):
    (tmp_path / "set" / "masks").mkdir(parents=True)
    for photo in sorted(photos.rename(tmp_path / "set" / "images").iterdir()):
        Image.effect_noise((24, 16), 60).point(lambda value: value // 128).save(tmp_path / "set" / "masks" / photo.name)
    name, call = {"the first image": ("_put", 1), "a later image": ("_put", 5), "the classes": ("finish", 1)}[moment]
    send_at(monkeypatch, write._Writer, name, number, call)
    command = ["data", "import", tmp_path / "set", "-o", tmp_path / "out", "--names", "cell,nucleus"]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*command)
    assert code == 128 + number and "Interrupted" in err and "Traceback" not in err, out + err
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.undo()
    assert run(*command)[0] == 0


@pytest.mark.parametrize(
    "number",
    [n if n == signal.SIGTERM else pytest.param(n, marks=pytest.mark.slow) for n in SIGNALS],
    ids=lambda n: n.name,
)
@pytest.mark.parametrize("moment", ["tracing", "the comparison", "the seal"])
def test_an_export_that_is_stopped_leaves_the_file_of_before(run, model, tmp_path, monkeypatch, number, moment):
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    file = tmp_path / "files" / "net.onnx"
    file.parent.mkdir()
    file.write_bytes(b"before")
    place, name = {"tracing": (export, "trace"), "the comparison": (export, "verify"), "the seal": (export, "seal")}[moment]
    send_at(monkeypatch, place, name, number)
    code, _, err = run("export", model, "-o", file)
    assert code == 128 + number and "Interrupted" in err and "Traceback" not in err, err
    assert [path.name for path in file.parent.iterdir()] == ["net.onnx"] and file.read_bytes() == b"before"


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_bulk_ends_by_a_signal_with_ray_at_work_and_leaves_no_process(model, tmp_path, number):
    pytest.importorskip("ray", reason="the extra bulk is not installed")
    (tmp_path / "in").mkdir()
    for i in range(200):
        Image.new("RGB", (64, 48)).save(tmp_path / "in" / f"{i}.png")
    command = [sys.executable, "-m", "pspnet_zoo.cli", "bulk", "in", "out", "--model", str(model), "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--rows-per-shard", "1"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("out/part-*")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number and "the same command continues" in err and "Traceback" not in err
    lines = [line for line in err.splitlines() if line.strip() and "images/s" not in line and "starting" not in line]
    assert len(lines) == 1, err  # Ray's own messages are off
    assert not list(tmp_path.glob("out/.part-*"))
