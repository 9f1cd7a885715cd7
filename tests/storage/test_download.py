"""One file from one address, against a server that makes trouble."""

import socket

import pytest

from pspnet_zoo.storage import download as download_module
from pspnet_zoo.storage.download import DownloadError, download
from tests.storage.file_server import FileServer, Trouble

BODY = bytes(range(251)) * 4000  # about 1 MB, and no two places alike


@pytest.fixture
def server():
    with FileServer({"file": BODY}) as server:
        yield server


def fetch(server, path, **options):
    download(server.url("file"), path, **{"has_hash": False, "pause": 0.01, "timeout": 5, **options})


def test_a_file_arrives_whole_and_alone(server, tmp_path):
    seen = []
    fetch(server, tmp_path / "file", progress=lambda have, total: seen.append((have, total)))
    assert (tmp_path / "file").read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_broken_download_is_continued_where_it_stopped(server, tmp_path):
    server.troubles = [Trouble(stop_after=300_000), Trouble(stop_after=300_000)]
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert [r for _, r in server.requests] == [None, "bytes=300000-", "bytes=600000-"]


def test_the_next_call_continues_a_part(server, tmp_path):
    server.troubles = [Trouble(stop_after=300_000), *[Trouble(status=503)] * 2]
    with pytest.raises(DownloadError, match="2 attempts"):
        fetch(server, tmp_path / "file", attempts=2)
    assert not (tmp_path / "file").exists()
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.requests[-1][1] == "bytes=300000-"


@pytest.mark.parametrize("has_hash", [False, True])
def test_without_a_validator_a_part_is_continued_only_if_a_hash_will_tell(server, tmp_path, has_hash):
    server.validator = None
    server.troubles = [Trouble(stop_after=300_000)]
    fetch(server, tmp_path / "file", has_hash=has_hash)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.requests[-1][1] == ("bytes=300000-" if has_hash else None)


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    server.troubles = [Trouble(stop_after=300_000)]
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_file_that_changed_in_between_starts_over(server, tmp_path):
    server.troubles = [Trouble(stop_after=300_000), *[Trouble(status=500)] * 2]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / "file", attempts=2)
    server.files["file"] = other = BODY[::-1]
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == other


def test_a_part_longer_than_the_file_starts_over(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY + b"more")
    fetch(server, tmp_path / "file", has_hash=True)
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_waited_out(server, tmp_path, status):
    server.troubles = [Trouble(status=status)] * 3
    fetch(server, tmp_path / "file")
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [401, 403, 410])
def test_a_refusal_is_final(server, tmp_path, status):
    server.troubles = [Trouble(status=status)] * 3
    with pytest.raises(DownloadError, match=f"the server says {status}"):
        fetch(server, tmp_path / "file")
    assert len(server.requests) == 1


def test_it_gives_up_when_nothing_comes(server, tmp_path):
    server.troubles = [Trouble(stop_after=0)] * 9
    with pytest.raises(DownloadError, match="3 attempts: the connection ended after 0 of 1004000 bytes"):
        fetch(server, tmp_path / "file", attempts=3)
    assert len(server.requests) == 3


def test_a_silent_server_is_not_waited_for_for_ever(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        with pytest.raises(DownloadError, match="timed out"):
            download(url, tmp_path / "file", has_hash=False, attempts=2, timeout=0.2, pause=0.01)


def test_a_closed_port_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(DownloadError, match="refused"):
        download(f"http://127.0.0.1:{port}/file", tmp_path / "file", has_hash=False, attempts=2, pause=0.01)


def test_an_unknown_host_is_an_error_at_once(tmp_path):
    with pytest.raises(DownloadError, match="there is no network, or no such server"):
        download("http://no-such-host.invalid/file", tmp_path / "file", has_hash=False, pause=60)


@pytest.mark.parametrize("is_stated", [True, False])
def test_a_file_without_end_is_given_up_and_deleted(server, tmp_path, monkeypatch, is_stated):
    monkeypatch.setattr(download_module, "MAX_BYTES", len(BODY) - 1)
    server.states_length = is_stated
    with pytest.raises(DownloadError, match="more than 0.001"):
        fetch(server, tmp_path / "file")
    assert not list(tmp_path.iterdir()) and len(server.requests) == 1
    monkeypatch.setattr(download_module, "MAX_BYTES", len(BODY))
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
