"""tools/publish_weights.py against a Hub and a file server on 127.0.0.1: what the workflow publish-weights does."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pspnet_zoo import WeightsError, create
from pspnet_zoo.storage import publish as publisher
from pspnet_zoo.upstream import cache
from pspnet_zoo.upstream.convert import build_network
from pspnet_zoo.zoo import registry
from pspnet_zoo.zoo.entries import HubCopy
from tests.storage.file_server import FileServer
from tests.storage.server import ORG, WRITE, Fault
from tests.upstream.test_cache import BYTES, OURS, ROW, SHA256, quick
from tools import publish_weights as tool

# the client's own, of its upload by LFS
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")

ROOT = Path(tool.__file__).parent.parent
REPO = f"{ORG}/{ROW.name}"
PARAMETERS = sum(p.numel() for p in build_network(ROW).parameters())


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(cache, "download", quick(cache.download))
    with FileServer({"tiny.pth": BYTES}) as server:
        yield server


@pytest.fixture
def row(hub, server, monkeypatch):
    """The zoo's only checkpoint, and a token that may publish it."""
    monkeypatch.setenv("HF_TOKEN", WRITE)
    source = replace(ROW.upstream, urls=(server.url("tiny.pth"),), hash=f"sha256:{SHA256[:8]}")
    row = replace(ROW, upstream=source, parameters=PARAMETERS)
    for module in (registry, tool):
        monkeypatch.setattr(module, "CHECKPOINTS", (row,))
    return row


@pytest.fixture
def tree(tmp_path):
    """A clone with the one file that is written."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    file = tmp_path / "clone" / "pspnet_zoo" / "zoo" / "copies.py"
    file.parent.mkdir(parents=True)
    shutil.copy(tool.COPIES_FILE, file)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "clone", check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path / "clone", check=True)
    return file


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["publish_weights.py", *map(str, arguments)])
    tool.main()


def read(file):
    names = {}
    exec(file.read_text().replace("from .entries", "from pspnet_zoo.zoo.entries"), names)
    return names["COPIES"]


def assert_taken_from_the_hub(row, copy, server, monkeypatch):
    """`create` gives the upstream's tensors without asking it."""
    monkeypatch.setenv("PSPNET_ZOO_NAMESPACE", ORG)
    monkeypatch.setattr(registry, "CHECKPOINTS", (replace(row, hub=copy),))
    server.files.clear()
    state = create(row.name).state_dict()
    assert all(bool((state[key] == value).all()) for key, value in OURS.items())


def test_from_the_list_to_a_row_that_create_takes(hub, server, row, tree, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "list", "*tiny")
    assert json.loads(capsys.readouterr().out) == [row.name]
    run(monkeypatch, "publish", row.name, "--to", ORG, "-o", tmp_path / "copies")
    run(monkeypatch, "pin", tmp_path / "copies", "--file", tree)
    copy = read(tree)[row.name]
    assert copy.revision == hub.repos[REPO].head and copy.size == len(hub.repos[REPO].at("main")[1]["model.safetensors"].data)
    monkeypatch.delenv("HF_TOKEN")
    assert_taken_from_the_hub(row, copy, server, monkeypatch)


def test_the_patch_applies_and_is_as_the_project_formats(hub, row, tree, tmp_path, monkeypatch):
    run(monkeypatch, "publish", row.name, "--to", ORG, "-o", tmp_path / "copies")
    before = tree.read_bytes()
    run(monkeypatch, "pin", tmp_path / "copies", "--file", tree)
    clone = tree.parents[2]
    patch = subprocess.run(["git", "diff"], cwd=clone, check=True, capture_output=True).stdout
    after = tree.read_bytes()
    tree.write_bytes(before)
    subprocess.run(["git", "apply"], cwd=clone, input=patch, check=True)
    assert tree.read_bytes() == after != before
    run(monkeypatch, "pin", tmp_path / "copies", "--file", tree)
    assert tree.read_bytes() == after
    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "132", tree]
    assert subprocess.run(ruff, capture_output=True).returncode == 0


def test_pinning_keeps_what_is_pinned(row, tree, tmp_path, monkeypatch):
    old = {"pspnet_a.b": HubCopy(repo="pspnet_a.b", revision="a" * 40, sha256="b" * 64, size=1)}
    monkeypatch.setattr(tool, "COPIES", old)
    (tmp_path / "copies").mkdir()
    fields = {"name": row.name, "repo": row.name, "revision": "c" * 40, "sha256": "d" * 64, "size": 2}
    (tmp_path / "copies" / "x.json").write_text(json.dumps(fields))
    assert tool.pin(tmp_path / "copies", tree) == 2
    assert read(tree) == {**old, row.name: HubCopy(repo=row.name, revision="c" * 40, sha256="d" * 64, size=2)}


@pytest.mark.parametrize(
    ("fault", "commits"),
    [
        (Fault("POST", "/api/repos/create", times=4, status=502), 0),
        (Fault("PUT", "/upload/", status=500), 1),
        (Fault("POST", "/commit/", status=503), 1),
        (Fault("POST", "/commit/", status=503, after=True, times=1), 2),
        (Fault("GET", "model.safetensors", times=1, change=lambda b: b[:-1] + bytes([b[-1] ^ 1])), 2),
    ],
    ids=["create", "upload", "commit", "answer lost", "read back"],
)
def test_a_failed_step_is_repeated_and_nothing_is_published_twice(hub, server, row, tmp_path, monkeypatch, capsys, fault, commits):
    monkeypatch.setattr(publisher, "_PAUSES", ())
    command = ("publish", row.name, "--to", ORG, "-o", tmp_path / "copies")
    hub.faults.append(fault)
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, *command)
    error = capsys.readouterr().err
    assert "Error: " in error.splitlines()[-1] and "Traceback" not in error and WRITE not in error
    assert not (tmp_path / "copies").exists()
    assert (len(hub.repos[REPO].commits) if REPO in hub.repos else 0) == commits
    hub.faults.clear()
    run(monkeypatch, *command)
    run(monkeypatch, *command)
    assert len(hub.repos[REPO].commits) == 2  # the first is the Hub's own
    assert json.loads((tmp_path / "copies" / f"{row.name}.json").read_text())["revision"] == hub.repos[REPO].head
    assert len(server.requests) == 1  # nor is anything fetched twice


def test_an_upstream_that_fails_publishes_nothing(hub, server, row, tmp_path, monkeypatch, capsys):
    server.files["tiny.pth"] = BYTES[:-1] + b"!"
    with pytest.raises(SystemExit):
        run(monkeypatch, "publish", row.name, "--to", ORG, "-o", tmp_path)
    assert "its digest is not" in capsys.readouterr().err and not hub.repos


def test_another_network_than_the_rows_is_not_published(hub, row, tmp_path):
    with pytest.raises(WeightsError, match=f"The parameters of '{row.name}' are {PARAMETERS}, and its row says 7; nothing was"):
        tool.publish(replace(row, parameters=7), ORG, tmp_path)
    assert not hub.repos


def test_what_has_its_copy_is_neither_listed_nor_published(row, tmp_path, monkeypatch):
    copy = HubCopy(repo=row.name, revision="a" * 40, sha256="b" * 64, size=1)
    monkeypatch.setattr(tool, "CHECKPOINTS", (replace(row, hub=copy),))
    assert tool.unpublished("*") == []
    with pytest.raises(ValueError, match="has its copy already"):
        tool.publish(replace(row, hub=copy), ORG, tmp_path)


def test_a_file_of_something_else_is_not_pinned(tree, tmp_path):
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="x.json' is not what 'publish' wrote"):
        tool.pin(tmp_path / "copies", tree)


def test_the_workflow_runs_commands_that_there_are():
    """Each line of the workflow that runs the script names one of its commands, and the token is given to one step alone."""
    text = (ROOT / ".github" / "workflows" / "publish-weights.yml").read_text()
    used = [line.split("publish_weights.py ", 1)[1].split()[0] for line in text.splitlines() if "publish_weights.py " in line]
    assert [name.strip('"') for name in used] == ["list", "publish", "pin"]
    assert text.count("secrets.HF_TOKEN") == 1
