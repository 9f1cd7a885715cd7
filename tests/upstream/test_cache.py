"""Weights of other projects on first use: fetched, checked, converted, kept; against a server on 127.0.0.1."""

import errno
import hashlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pspnet_zoo
from pspnet_zoo import WeightsError
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.storage import files
from pspnet_zoo.storage.hub import verified_sha256
from pspnet_zoo.upstream import cache
from pspnet_zoo.upstream.convert import build_network
from pspnet_zoo.zoo import registry
from pspnet_zoo.zoo.entries import Checkpoint, Metric, NetworkConfig, Upstream
from tests.storage.file_server import FileServer, Trouble

ROW = Checkpoint(
    architecture="pspnet_test_resnet",
    tag="semseg_tiny",
    parameters=0,
    license="none",
    metrics=(),
    upstream=Upstream(
        id="tiny",
        family="semseg",
        page="https://example.org/tiny",
        files=("tiny.pth",),
        network=NetworkConfig(classes=3, align_corners=True, psp_out_channels=8),
        preprocess=Preprocess((0.5,) * 3, (0.5,) * 3),
    ),
)


def upstream_state(seed=0):
    """hszhao/semseg's keys for a tiny network."""
    torch.manual_seed(seed)
    ours = {
        k: torch.rand(v.shape) if v.is_floating_point() else torch.tensor(1) for k, v in build_network(ROW).state_dict().items()
    }
    names = [
        ("encoder.model.conv1.", "layer0."),
        ("encoder.model.bn1.", "layer0.7."),
        ("encoder.model.", ""),
        *[(f"decoder.pyramid.branches.{i}.{j}.", f"ppm.features.{i}.{j + 1}.") for i in range(4) for j in range(2)],
        ("decoder.pyramid.fuse.", "cls."),
        ("segmentation_head.0.", "cls.4."),
        ("auxiliary_head.0.", "aux."),
    ]
    state = {}
    for key, value in ours.items():
        prefix, theirs = next((p, t) for p, t in names if key.startswith(p))
        state[theirs + key.removeprefix(prefix)] = value
    return ours, state


def checkpoint(state):
    buffer = io.BytesIO()
    torch.save({"epoch": 1, "state_dict": state}, buffer)
    return buffer.getvalue()


OURS, THEIRS = upstream_state()
BYTES = checkpoint(THEIRS)
SHA256 = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PSPNET_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "download", quick(cache.download))
    return tmp_path / "cache"


def quick(download):
    return lambda *args, **options: download(*args, **options, pause=0.01, timeout=5)


@pytest.fixture
def server():
    with FileServer({"tiny.pth": BYTES}) as server:
        yield server


def row_of(server, *, hash=f"sha256:{SHA256[:8]}", path="tiny.pth", **changes):
    return replace(ROW, upstream=replace(ROW.upstream, urls=(server.url(path),), hash=hash, **changes))


def assert_right(folder):
    state = pspnet_zoo.from_pretrained(folder).state_dict()
    for key, value in OURS.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0, msg=key)


def assert_clean(root):
    """Nothing but whole folders, lock files and parts to be continued."""
    left = [
        p.relative_to(root).as_posix()
        for p in root.rglob("*")
        if p.is_file() and not p.name.endswith((".lock", ".part", ".part.json")) and p.parent.name != "verified"
    ]
    assert not [p for p in left if not p.endswith(("/model.safetensors", "/config.json"))]
    assert not list(root.glob(".*"))


def test_the_second_call_needs_no_server(server, root):
    entry = row_of(server)
    assert_right(cache.cached(entry))
    server.files.clear()
    assert_right(cache.cached(entry))
    assert len(server.requests) == 1
    assert_clean(root)


def test_weights_are_hashed_once_and_not_at_every_call(server, monkeypatch):
    hashed, digest = [], files.file_digest
    monkeypatch.setattr(files, "file_digest", lambda path, algorithm: hashed.append(Path(path).name) or digest(path, algorithm))
    weights = cache.cached(row_of(server)) / "model.safetensors"
    assert verified_sha256(weights) is None
    hashed.clear()
    for _ in range(3):
        assert_right(cache.cached(row_of(server)))
    assert hashed == ["model.safetensors"] and verified_sha256(weights) == digest(weights, "sha256")


def test_create_takes_the_name_and_the_upstreams_id(server, monkeypatch):
    monkeypatch.setattr(registry, "CHECKPOINTS", (row_of(server),))
    x = torch.randn(1, 3, 33, 33)
    by_name = pspnet_zoo.create("pspnet_test_resnet.semseg_tiny")
    for other in (pspnet_zoo.create("tiny"), pspnet_zoo.create("pspnet_test_resnet", pretrained=True)):
        torch.testing.assert_close(other(x), by_name(x))
    assert by_name.provenance["sha256"] == {"tiny.pth": SHA256}
    assert pspnet_zoo.create("tiny", classes=7)(x).shape == (1, 7, 33, 33)
    assert len(server.requests) == 1


def test_a_corrected_text_about_a_row_fetches_nothing(server):
    entry = row_of(server)
    folder = cache.cached(entry)
    metrics = (Metric("miou", 0.5, "Cityscapes", "val", "whole image", "claimed"),)
    told = replace(entry, license="Apache-2.0", metrics=metrics, upstream=replace(entry.upstream, page="https://example.org/new"))
    assert cache.is_cached(told) and cache.cached(told) == folder and len(server.requests) == 1
    provenance = pspnet_zoo.from_pretrained(folder).provenance
    assert provenance["license"] == "Apache-2.0" and provenance["page"] == "https://example.org/new"
    assert [metric["value"] for metric in provenance["metrics"]] == [0.5] and provenance["sha256"] == {"tiny.pth": SHA256}


def test_a_corrected_text_that_cannot_be_written_is_said_so(server, monkeypatch, caplog):
    entry = row_of(server)
    folder = cache.cached(entry)

    def refuse(*args, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr(cache, "update_config", refuse)
    assert cache.cached(entry) == folder and not caplog.text
    assert cache.cached(replace(entry, license="Apache-2.0")) == folder and "cannot be written (read-only)" in caplog.text


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_byte(folder / "model.safetensors"),
        lambda folder: (folder / "config.json").write_text(""),
        lambda folder: (folder / "config.json").write_text("{}"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "model.safetensors").unlink(),
    ],
    ids=["flipped", "empty config", "other config", "no config", "no weights"],
)
def test_a_damaged_folder_is_fetched_again(server, caplog, damage):
    entry = row_of(server)
    damage(cache.cached(entry))
    assert_right(cache.cached(entry))
    assert len(server.requests) == 2 and "It is fetched again" in caplog.text


def test_another_policy_under_the_same_name_is_converted_anew(server):
    entry = row_of(server)
    first = cache.cached(entry)
    second = cache.cached(
        replace(entry, upstream=replace(entry.upstream, network=replace(entry.upstream.network, dilation="uniform")))
    )
    assert first != second and pspnet_zoo.from_pretrained(second).config["dilation"] == "uniform"


FLIPPED = bytearray(BYTES)
FLIPPED[len(BYTES) // 2] ^= 1


@pytest.mark.parametrize("body", [bytes(FLIPPED), BYTES[:-1], b"<html>moved</html>"], ids=["flipped", "short", "page"])
def test_a_wrong_file_is_fetched_again_once(server, root, body):
    server.troubles = [Trouble(body=body)]
    assert_right(cache.cached(row_of(server)))
    assert len(server.requests) == 2
    assert_clean(root)


@pytest.mark.parametrize(
    ("body", "what"), [(bytes(FLIPPED), "a damaged file"), (BYTES[:-1], "a damaged file"), (b"<html>moved</html>", "a web page")]
)
def test_a_file_that_stays_wrong_is_never_opened(server, root, monkeypatch, body, what):
    server.files["tiny.pth"] = body
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(WeightsError, match=f"{what} in place of 'tiny.pth'.*Nothing was opened"):
        cache.cached(row_of(server))
    assert len(server.requests) == 2
    assert_clean(root)
    monkeypatch.undo()
    monkeypatch.setenv("PSPNET_ZOO_CACHE", str(root))
    server.files["tiny.pth"] = BYTES
    assert_right(cache.cached(row_of(server)))


class RunsCode:
    def __reduce__(self):
        return os._exit, (1,)


UNFIT = {
    "truncated": BYTES[: len(BYTES) // 2],
    "page": b"<!doctype html>",
    "code": checkpoint({**THEIRS, "cls.4.bias": RunsCode()}),
    "missing": checkpoint({k: v for k, v in THEIRS.items() if k != "cls.4.bias"}),
    "shape": checkpoint({**THEIRS, "cls.4.bias": torch.zeros(4)}),
}


@pytest.mark.parametrize("body", UNFIT.values(), ids=UNFIT)
def test_without_a_published_hash_an_unfit_file_is_refused_and_not_kept(server, root, body):
    server.files["tiny.pth"] = body
    with pytest.raises(WeightsError):
        cache.cached(row_of(server, hash=None))
    assert_clean(root)
    server.files["tiny.pth"] = BYTES
    assert_right(cache.cached(row_of(server, hash=None)))


def test_a_file_inside_an_archive_is_taken_out_and_checked(server, root):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("tiny.pth", BYTES)
    server.files["tiny.pth.zip"] = buffer.getvalue()
    sha1 = hashlib.sha1(BYTES).hexdigest()
    assert_right(cache.cached(row_of(server, hash=f"sha1:{sha1}", path="tiny.pth.zip")))
    with pytest.raises(WeightsError, match="a damaged file in place of"):
        cache.cached(row_of(server, hash="sha1:00000000", path="tiny.pth.zip"))
    server.files["tiny.pth.zip"] = b"no archive"
    with pytest.raises(WeightsError, match="is not an archive with 'tiny.pth' in it"):
        cache.cached(row_of(server, hash="sha1:11111111", path="tiny.pth.zip"))
    assert_clean(root)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_archive_whose_compression_is_damaged_is_refused_and_not_kept(server, root, method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("tiny.pth", BYTES)
    body = bytearray(buffer.getvalue())
    body[1000:1100] = b"\xff" * 100
    server.files["tiny.pth.zip"] = bytes(body)
    with pytest.raises(WeightsError, match="is not an archive with 'tiny.pth' in it"):
        cache.cached(row_of(server, hash="sha1:00000000", path="tiny.pth.zip"))
    assert not [file for file in root.rglob("tiny*") if file.is_file() and file.suffix != ".lock"]


def test_an_archive_that_unpacks_to_too_much_is_refused(server, root, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny.pth", bytes(10_000_000))
    server.files["tiny.pth.zip"] = buffer.getvalue()
    monkeypatch.setattr(cache, "MAX_BYTES", 1_000_000)
    with pytest.raises(WeightsError, match="unpacked it has more than 0.001 GB"):
        cache.cached(row_of(server, hash="sha1:00000000", path="tiny.pth.zip"))
    assert not [file for file in root.rglob("tiny*") if file.is_file() and file.suffix != ".lock"]


def test_a_disk_that_is_full_while_an_archive_is_unpacked_keeps_no_half_of_it(server, root, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("tiny.pth", BYTES)
    server.files["tiny.pth.zip"] = buffer.getvalue()

    def full(source, target):
        target.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        cache.cached(row_of(server, hash="sha1:00000000", path="tiny.pth.zip"))
    assert not [file for file in root.rglob("tiny*") if file.is_file() and file.suffix != ".lock"]


def test_offline_the_error_says_what_to_fetch_and_where_to_put_it(root):
    entry = replace(
        ROW, upstream=replace(ROW.upstream, urls=("http://no-such-host.invalid/tiny.pth",), hash=f"sha256:{SHA256[:8]}")
    )
    with pytest.raises(WeightsError, match="there is no network") as error:
        cache.cached(entry)
    place = Path(re.search(r"put 'tiny.pth' at '([^']+)'", str(error.value))[1])
    assert place.parent.parent == root / "downloads"
    for part in (entry.upstream.urls[0], f"pspnet-zoo convert tiny.pth --like {entry.name} -o FOLDER"):
        assert part in str(error.value)
    place.write_bytes(BYTES)
    assert_right(cache.cached(entry))


def test_a_row_without_an_address_names_the_page_and_the_command():
    with pytest.raises(WeightsError, match="https://example.org/tiny with a browser, then run: pspnet-zoo convert tiny.pth --like"):
        cache.cached(ROW)


def test_an_entry_that_is_not_supported_names_one_with_the_same_weights():
    with pytest.raises(WeightsError, match="'pspnet_r101s.pytorchcv_cityscapes' is the same in PyTorch"):
        pspnet_zoo.create("gluoncv_psp_resnet101_citys")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_folder_is_made_again(server, root, file):
    entry = row_of(server)
    path = cache.cached(entry) / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) if file == "model.safetensors" else path.unlink()
    assert_right(cache.cached(entry))
    assert len(server.requests) == 2
    assert_clean(root)


CALL = """
import sys
from pspnet_zoo.storage import files
from pspnet_zoo.storage.hub import verified_sha256
from pspnet_zoo.upstream import cache
from tests.upstream import test_cache
class Server:
    url = staticmethod(lambda path: sys.argv[1])
print("started", flush=True)
print(cache.cached(test_cache.row_of(Server)))
"""


def environment():
    """This process's, with the cache of the test that runs."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def call(server):
    """Another process that asks for the entry."""
    return subprocess.Popen(
        [sys.executable, "-c", CALL, server.url("tiny.pth")], env=environment(), stdout=subprocess.PIPE, text=True
    )


def test_processes_that_ask_at_once_share_one_download(server, root):
    server.pace = 0.02
    processes = [call(server) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0] and len(folders) == 1
    assert len(server.requests) == 1
    assert_right(folders.pop().split()[-1])
    assert_clean(root)


def test_a_process_killed_while_it_downloads_is_continued(server, root):
    server.pace = 0.2
    with call(server) as process:
        while not (parts := [p for p in root.glob("downloads/*/tiny.pth.part") if p.stat().st_size]):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    have = parts[0].stat().st_size
    assert have < len(BYTES)
    server.pace = None
    assert_right(cache.cached(row_of(server)))
    assert server.requests[-1][1] == f"bytes={have}-"
    assert_clean(root)


@pytest.mark.parametrize(
    ("moment", "step"),
    [
        pytest.param("before", "matches", marks=pytest.mark.slow),
        ("before", "convert_files"),
        pytest.param("after", "convert_files", marks=pytest.mark.slow),
        ("before", "os.replace"),
        ("after", "os.replace"),
    ],
)
def test_a_process_killed_between_steps_leaves_nothing_that_hurts(server, root, step, moment):
    """The child kills itself with SIGKILL right before, or right after, a step of `cached`."""
    script = CALL.replace(
        'print("started", flush=True)',
        f"""
import os, signal, types
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
module, _, name = {step!r}.rpartition(".")
owner = types.SimpleNamespace(**vars(getattr(cache, module))) if module else cache
original = getattr(owner, name)
def step(*args, **options):
    if {moment!r} == "before": kill()
    original(*args, **options)
    kill()
setattr(owner, name, step)
if module: setattr(cache, module, owner)
""",
    )
    child = subprocess.run([sys.executable, "-c", script, server.url("tiny.pth")], env=environment(), timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert_right(cache.cached(row_of(server)))
    assert_right(cache.cached(row_of(server)))
    assert_clean(root)


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_nothing_that_hurts(server, root):
    moments = random.Random(0)
    server.pace = 0.01
    for _ in range(25):
        with call(server) as process:
            assert process.stdout.readline() == "started\n"
            time.sleep(moments.uniform(0, 0.6))
            process.kill()
    server.pace = None
    assert_right(cache.cached(row_of(server)))
    assert_clean(root)
