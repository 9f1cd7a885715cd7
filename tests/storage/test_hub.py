"""Loading from the Hub with the real client: names, revisions, rights, and everything that can go wrong on the way."""

import json
import logging
import os
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from pspnet_zoo import Predictor, WeightsError, create, from_pretrained
from pspnet_zoo.cli import app
from pspnet_zoo.storage import hub as loader
from pspnet_zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE
from pspnet_zoo.zoo import registry
from pspnet_zoo.zoo.entries import HubCopy
from pspnet_zoo.zoo.registry import find_checkpoint
from tests.storage.conftest import assert_equal, forget_digest
from tests.storage.server import ORG, READ, STRANGER, WRITE, Fault

NAME = f"{ORG}/tiny"


@pytest.fixture
def commit(hub, files):
    return hub.add(NAME, files)


def cached_files():
    """Name and bytes of every file in the client's cache that a checkpoint could be loaded from."""
    root = Path(constants.HF_HUB_CACHE)
    return {p.name: p.read_bytes() for p in root.rglob("snapshots/*/*") if p.exists()}


def blobs():
    return [p for p in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if p.is_file()]


def flip(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


# names, revisions, caches


def test_a_repository_loads_by_name_by_tag_and_by_commit(hub, tiny, commit):
    hub.repos[NAME].tags["v1"] = commit
    for source, revision in ((NAME, None), (f"{NAME}@v1", None), (f"{NAME}@{commit}", None), (NAME, commit)):
        loaded = from_pretrained(source, revision=revision)
        assert_equal(loaded, tiny)
        assert loaded.labels == tiny.labels and not loaded.training


def test_info_describes_a_repository_named_as_the_zoo_names_weights(hub, files, tiny, monkeypatch, capsys):
    repo = f"{ORG}/pspnet_lite0.camvid"
    hub.add(repo, files)
    monkeypatch.setattr(sys, "argv", ["pspnet-zoo", "info", repo])
    with pytest.raises(SystemExit) as exit:
        app.main()
    shown = capsys.readouterr().out
    assert not exit.value.code and repo in shown and f"{sum(p.numel() for p in tiny.parameters()):,}" in shown


def test_a_cached_commit_is_loaded_without_a_request_and_hashed_once(hub, commit, monkeypatch):
    from_pretrained(f"{NAME}@{commit}")
    assert len(hub.asked(part="/api/models")) == 1
    hub.requests.clear()
    monkeypatch.setattr(loader, "digest_as", None)
    from_pretrained(f"{NAME}@{commit}")
    assert not hub.requests


def test_a_branch_is_asked_for_once_and_followed(hub, tiny, commit, files):
    from_pretrained(NAME)
    hub.requests.clear()
    from_pretrained(NAME)
    assert [r.method for r in hub.requests] == ["HEAD"]
    changed = {**json.loads(files[CONFIG_FILE]), "provenance": {"data": "newer"}}
    hub.add(NAME, {CONFIG_FILE: json.dumps(changed).encode()})
    assert from_pretrained(NAME).provenance == {"data": "newer"}
    assert from_pretrained(f"{NAME}@{commit}").provenance == tiny.provenance


def test_downloads_are_counted_by_the_config(hub, commit):
    from_pretrained(NAME)
    assert hub.asked("GET", f"/resolve/{commit}/{CONFIG_FILE}") or hub.asked("GET", f"/resolve/main/{CONFIG_FILE}")


def test_a_predictor_takes_a_repository(commit, tiny):
    assert Predictor(f"{NAME}@{commit}").model.labels == tiny.labels


def test_options_and_classes_reach_the_network(commit):
    loaded = from_pretrained(NAME, classes=5, encoder_output_stride=16)
    assert loaded.config["classes"] == 5 and loaded.encoder.output_stride == 16


def test_a_folder_is_loaded_as_before(folder, tiny):
    assert from_pretrained(folder).labels == tiny.labels
    with pytest.raises(ValueError, match="has no revision"):
        from_pretrained(folder, revision="main")


def test_a_folder_that_looks_like_a_repository_comes_first(folder, tiny, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    assert from_pretrained(f"{folder.parent.name}/{folder.name}").labels == tiny.labels


def test_two_revisions_are_a_contradiction():
    with pytest.raises(ValueError, match="give one of them"):
        from_pretrained(f"{NAME}@v1", revision="v2")


def test_not_strict_loads_what_fits_and_says_what_does_not(folder):
    from pspnet_zoo.storage.files import read_safetensors, write_safetensors

    tensors = dict(read_safetensors(folder / WEIGHTS_FILE))
    write_safetensors(folder / WEIGHTS_FILE, {**{k: v for k, v in tensors.items() if "head.0.bias" not in k}, "x": torch.ones(1)})
    forget_digest(folder)
    with pytest.warns(UserWarning, match="lacks them: segmentation_head.0.bias"), pytest.warns(UserWarning, match="lacks them: x"):
        loaded = from_pretrained(folder, strict=False)
    assert torch.equal(loaded.segmentation_head[0].weight, tensors["segmentation_head.0.weight"])


# rows


@pytest.fixture
def row(hub, commit, files, monkeypatch):
    """A row of the zoo whose weights are published in the test's organisation."""
    monkeypatch.setenv("PSPNET_ZOO_NAMESPACE", ORG)
    copy = HubCopy(repo="tiny", revision=commit, sha256=sha256(files[WEIGHTS_FILE]), size=len(files[WEIGHTS_FILE]))
    row = replace(find_checkpoint("pspnet_r50c.mmseg_cityscapes"), hub=copy, tag="published")
    monkeypatch.setattr(registry, "CHECKPOINTS", (row,))
    return row


def sha256(data):
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_create_takes_the_copy_on_the_hub_and_then_no_request(hub, row, tiny):
    assert_equal(create(row.name), tiny)
    hub.requests.clear()
    create("pspnet_r50c", pretrained="published", classes=3)
    assert not hub.requests


@pytest.mark.parametrize("change", [{"revision": "main"}, {"revision": "abc1234"}, {"sha256": "sha256:" + "0" * 64}])
def test_a_row_that_does_not_pin_is_refused(row, change):
    with pytest.raises(ValueError, match="a full commit and a full sha256"):
        replace(row.hub, **change)


def test_a_row_that_pins_other_bytes_is_refused(hub, row, monkeypatch):
    other = replace(row, hub=replace(row.hub, sha256="0" * 64))
    monkeypatch.setattr(registry, "CHECKPOINTS", (other,))
    with pytest.raises(WeightsError, match="its digest is not sha256:0000"):
        create(row.name)
    assert WEIGHTS_FILE not in cached_files()


# rights


def test_a_private_repository_needs_a_token_of_a_member(hub, files):
    hub.add(NAME, files, private=True)
    assert from_pretrained(NAME, token=READ)
    for token in (STRANGER, None):
        with pytest.raises(WeightsError, match=f"is not on {hub.endpoint}.*if it is private"):
            from_pretrained(NAME, token=token, cache_dir=Path(constants.HF_HUB_CACHE) / "other")


def test_a_gated_repository_says_where_to_accept_its_terms(hub, files):
    hub.add(NAME, files, gated=True)
    with pytest.raises(WeightsError, match=f"is gated: accept its terms on {hub.endpoint}"):
        from_pretrained(NAME, token=STRANGER)
    assert from_pretrained(NAME, token=READ)


def test_a_wrong_token_is_said(commit):
    with pytest.raises(WeightsError, match=r"answered 401 .*log in with"):
        from_pretrained(NAME, token="hf_wrong0123456789")


def test_the_token_goes_to_the_hub_only_and_is_in_no_log_error_or_file(hub, files, caplog, tmp_path):
    hub.add(NAME, files, private=True)
    caplog.set_level(logging.DEBUG)
    from_pretrained(NAME, token=READ)
    elsewhere = [r for r in hub.requests if r.host != "127.0.0.1"]
    assert elsewhere and not any(READ in value for r in elsewhere for value in r.headers.values())
    assert hub.asked("GET", "/resolve/")[0].headers["authorization"] == f"Bearer {READ}"
    assert caplog.text and READ not in caplog.text
    caplog.clear()
    caplog.set_level(logging.DEBUG, "pspnet_zoo")
    caplog.set_level(logging.WARNING)  # the client's transport logs the answers of a server that repeats the token
    hub.faults.append(Fault("HEAD", "/resolve/", status=403, headers={"X-Error-Message": f"no rights for {WRITE}"}))
    with pytest.raises(WeightsError) as caught:
        from_pretrained(NAME, token=WRITE, cache_dir=tmp_path / "cold")
    text = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "no rights for ***" in str(caught.value) and WRITE not in text
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert written and not any(token.encode() in p.read_bytes() for p in written for token in (READ, WRITE))


def test_a_link_out_of_the_cache_is_removed_and_what_it_leads_to_is_not(commit, tmp_path):
    from_pretrained(f"{NAME}@{commit}")
    [weights] = Path(constants.HF_HUB_CACHE).rglob(f"snapshots/*/{WEIGHTS_FILE}")
    mine = tmp_path / "mine.bin"
    mine.write_bytes(b"mine")
    blob = weights.resolve()
    weights.unlink()
    weights.symlink_to(mine)
    from_pretrained(f"{NAME}@{commit}")
    assert mine.read_bytes() == b"mine" and weights.resolve() == blob


# names that are not there


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (f"{ORG}/nowhere", "nor is it a folder here"),
        (f"{NAME}@v9", "no such revision"),
        (f"{NAME}@../../main", "no such revision|failed "),
        ("a..b/c--d", "is no repository of the Hub"),
    ],
)
def test_a_name_that_is_not_there_is_said(commit, source, reason):
    with pytest.raises(WeightsError, match=reason):
        from_pretrained(source)


@pytest.mark.parametrize("missing", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_repository_without_a_checkpoint_is_said(hub, files, missing):
    hub.add(NAME, {**{k: v for k, v in files.items() if k != missing}, "pytorch_model.bin": b"\x80\x02}q\x00."})
    with pytest.raises(WeightsError, match=f"'{missing}' of '{NAME}'.*pickles, are not supported"):
        from_pretrained(NAME)
    assert not hub.asked(part="pytorch_model.bin")


# what is there is not what it should be: refused by what is in it, although every digest fits


def test_the_config_of_a_foreign_library_is_refused(hub, files):
    hub.add(NAME, {**files, CONFIG_FILE: b'{"_model_class": "PSPNet"}'})
    with pytest.raises(WeightsError, match="is not a checkpoint of pspnet_zoo"):
        from_pretrained(NAME)


def test_a_missing_key_is_refused(hub, tiny, tmp_path, files):
    from pspnet_zoo.storage.files import write_safetensors

    write_safetensors(tmp_path / "x", {k: v for k, v in tiny.state_dict().items() if k != "segmentation_head.0.bias"})
    config = {key: value for key, value in json.loads(files["config.json"]).items() if key != "weights_sha256"}
    hub.add(NAME, {**files, "config.json": json.dumps(config).encode(), WEIGHTS_FILE: (tmp_path / "x").read_bytes()})
    with pytest.raises(WeightsError, match=r"missing: segmentation_head\.0\.bias"):
        from_pretrained(NAME)


def test_a_pickle_in_place_of_safetensors_is_refused(hub, tiny, tmp_path, files):
    torch.save(tiny.state_dict(), tmp_path / "x")
    hub.add(NAME, {**files, WEIGHTS_FILE: (tmp_path / "x").read_bytes()})
    with pytest.raises(WeightsError, match="looks like a pickle"):
        from_pretrained(NAME)


def test_file_names_of_the_server_are_not_used_as_paths(hub, files, tmp_path):
    hub.add(NAME, {**files, "../../../../evil.safetensors": b"x", "/tmp/evil": b"x"})
    assert from_pretrained(NAME)
    assert not [p for p in tmp_path.rglob("*evil*")] and not hub.asked(part="evil")


def test_a_file_that_is_too_large_is_not_downloaded(hub, commit, monkeypatch):
    monkeypatch.setattr("pspnet_zoo.storage.hub.MAX_BYTES", 1000)
    with pytest.raises(WeightsError, match=rf"'config.json' of '{NAME}' has [\d,]+ bytes; at most 1,000 are fetched"):
        from_pretrained(NAME)
    assert not blobs()


def test_a_commit_that_leads_out_of_the_cache_is_refused(hub, commit, tmp_path):
    before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(constants.HF_HUB_CACHE)}
    hub.faults.append(Fault("HEAD", CONFIG_FILE, headers={"X-Repo-Commit": "../../../../../evil"}))
    with pytest.raises(WeightsError):
        from_pretrained(NAME)
    after = {p for p in tmp_path.rglob("*") if not p.is_relative_to(constants.HF_HUB_CACHE)}
    assert not [p for p in after - before if "hf" not in p.parts]


def test_a_commit_that_is_none_is_refused(hub, commit):
    hub.faults.append(Fault("HEAD", CONFIG_FILE, headers={"X-Repo-Commit": "main"}))
    with pytest.raises(WeightsError, match="which is no commit"):
        from_pretrained(NAME)


# the fault table: what goes wrong on the way, and what comes of it

HTML = b"<!DOCTYPE html><html><body>Log in to the airport's network</body></html>"
WEIGHTS = WEIGHTS_FILE

SURVIVED = {
    "dropped once": Fault("GET", WEIGHTS, times=1, drop_after=100_000),
    "stalled once": Fault("GET", WEIGHTS, times=1, pause=3),
    "slow": Fault("GET", WEIGHTS, trickle=0.01),
    "429 with Retry-After": Fault("GET", WEIGHTS, times=1, status=429, headers={"Retry-After": "1"}),
    "503 once": Fault("GET", WEIGHTS, times=1, status=503),
    "503 with Retry-After": Fault("GET", WEIGHTS, times=1, status=503, headers={"Retry-After": "1"}),
    "503 of the digests once": Fault("GET", "/api/models", times=1, status=503),
    "503 on HEAD once": Fault("HEAD", WEIGHTS, times=1, status=503),
    "cut short once": Fault("GET", WEIGHTS, times=1, change=lambda b: b[:-100]),
    "web page once": Fault("GET", WEIGHTS, times=1, change=lambda b: HTML),
    "byte flipped once": Fault("GET", WEIGHTS, times=1, change=flip),
    "byte of the config flipped once": Fault("GET", CONFIG_FILE, times=1, change=lambda b: b.replace(b"0.1", b"0.2")),
    "wrong ETag of the weights": Fault("HEAD", WEIGHTS, headers={"X-Linked-Etag": f'"{"0" * 64}"'}),
}

REFUSED = {
    "dropped for good": (Fault("GET", WEIGHTS, drop_after=100_000), r"failed \("),
    "503 for good": (Fault("GET", WEIGHTS, status=503), "answered 503"),
    "429 for good": (Fault("GET", WEIGHTS, status=429), "answered 429"),
    "503 on HEAD for good": (Fault("HEAD", CONFIG_FILE, status=503), "answered 503"),
    "cut short": (Fault("GET", WEIGHTS, change=lambda b: b[:-100]), r"failed \("),
    "web page": (Fault("GET", WEIGHTS, change=lambda b: HTML), r"failed \("),
    "web page of the weights' size": (
        Fault("GET", WEIGHTS, change=lambda b: HTML.ljust(len(b))),
        "is damaged or another file",
    ),
    "byte flipped": (Fault("GET", WEIGHTS, change=flip), "is damaged or another file"),
    "byte of the config flipped": (Fault("GET", CONFIG_FILE, change=lambda b: b.replace(b"0.1", b"0.2")), "is damaged or another"),
    "web page on HEAD": (Fault("HEAD", CONFIG_FILE, headers={"X-Repo-Commit": "", "ETag": ""}), "not reached|no commit"),
}


@pytest.mark.parametrize("kind", SURVIVED)
def test_what_passes_is_survived(hub, tiny, commit, files, kind):
    hub.faults.append(replace(SURVIVED[kind]))
    assert_equal(from_pretrained(NAME), tiny)
    assert cached_files() == files


@pytest.mark.parametrize("kind", REFUSED)
def test_what_stays_is_refused_and_leaves_nothing_damaged(hub, tiny, commit, files, kind):
    fault, reason = REFUSED[kind]
    hub.faults.append(replace(fault))
    with pytest.raises(WeightsError, match=reason) as caught:
        from_pretrained(NAME)
    assert NAME in str(caught.value)
    assert all(files[name] == data for name, data in cached_files().items())
    assert all(p.read_bytes() in files.values() for p in blobs() if p.suffix != ".incomplete")
    hub.faults.clear()
    assert_equal(from_pretrained(NAME), tiny)


@pytest.mark.parametrize("change", [lambda b: b[:-100], flip, lambda b: b""], ids=["truncated", "flipped", "emptied"])
@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
@pytest.mark.parametrize("online", [True, False], ids=["online", "offline"])
def test_a_file_damaged_in_the_cache_is_replaced_or_refused(hub, tiny, commit, files, change, name, online):
    source = f"{NAME}@{commit}"
    from_pretrained(source)
    blob = next(Path(constants.HF_HUB_CACHE).rglob(f"snapshots/*/{name}")).resolve()
    blob.chmod(0o644)
    blob.write_bytes(change(blob.read_bytes()))
    if online:
        assert_equal(from_pretrained(source), tiny)
        assert cached_files() == files
    else:
        with pytest.raises(WeightsError, match="Load it once with the network"):
            from_pretrained(source, local_files_only=True)
        assert name not in cached_files() and blob not in blobs()


def down(hub):
    hub.faults.append(Fault("HEAD", "", status=503))
    hub.faults.append(Fault("GET", "", status=503))


def test_the_cached_copy_serves_while_the_hub_is_down(hub, tiny, commit):
    from_pretrained(NAME)
    down(hub)
    assert from_pretrained(NAME).labels == tiny.labels


def test_a_copy_that_others_cached_is_compared_with_its_etag_while_the_hub_is_down(hub, tiny, commit, caplog):
    from huggingface_hub import hf_hub_download

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        path = Path(hf_hub_download(NAME, name)).resolve()
    down(hub)
    assert from_pretrained(NAME).labels == tiny.labels and "Taking the digest of its download" in caplog.text
    for stamp in Path(os.environ["PSPNET_ZOO_CACHE"]).rglob("*.json"):
        stamp.unlink()
    path.chmod(0o644)
    path.write_bytes(flip(path.read_bytes()))
    with pytest.raises(WeightsError):
        from_pretrained(NAME)
    assert not path.exists()


def test_without_a_connection_the_copy_serves_and_its_lack_is_said(hub, commit, tiny, monkeypatch, tmp_path):
    from_pretrained(NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}")
    hub.requests.clear()
    assert from_pretrained(NAME).labels == tiny.labels
    # huggingface_hub 1.20 tries again with a client that it has closed, and says that
    with pytest.raises(WeightsError, match=r"http://127\.0\.0\.1:9 (was not asked or not reached|failed)"):
        from_pretrained(NAME, cache_dir=tmp_path / "cold")
    assert not hub.requests


@pytest.mark.slow
def test_a_download_that_stalls_for_good_is_refused(hub, commit, tiny):
    hub.faults.append(Fault("GET", WEIGHTS, pause=5))
    with pytest.raises(WeightsError, match=r"failed \(ReadTimeout"):
        from_pretrained(NAME)
    assert WEIGHTS not in cached_files()
    hub.faults.clear()
    assert_equal(from_pretrained(NAME), tiny)


def test_a_damaged_stamp_only_costs_another_look(hub, commit, tiny):
    from_pretrained(NAME)
    stamps = list(Path(os.environ["PSPNET_ZOO_CACHE"]).rglob("verified/*.json"))
    assert len(stamps) == 2
    for stamp, text in zip(stamps, ("{", "[]"), strict=True):
        stamp.write_text(text)
    assert_equal(from_pretrained(f"{NAME}@{commit}"), tiny)
    assert all("digest" in json.loads(stamp.read_text()) for stamp in stamps)


def test_local_files_only_makes_no_request(hub, tiny, commit):
    with pytest.raises(WeightsError, match="is not in the cache"):
        from_pretrained(NAME, local_files_only=True)
    assert not hub.requests
    from_pretrained(NAME)
    hub.requests.clear()
    assert from_pretrained(NAME, local_files_only=True).labels == tiny.labels
    assert not hub.requests


def test_a_cache_of_stamps_that_cannot_be_written_only_costs_time(commit, tiny, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("PSPNET_ZOO_CACHE", str(tmp_path / "file"))
    assert from_pretrained(NAME).labels == tiny.labels and "hashed at every load" in caplog.text


def test_the_environment_means_what_it_means_to_the_hubs_users(hub, files, tmp_path):
    commit = hub.add(NAME, files, private=True)
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": READ,
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def run(script, **more):
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=True).stdout

    assert run(f"import pspnet_zoo; pspnet_zoo.from_pretrained('{NAME}'); print('loaded')") == "loaded\n"
    assert (tmp_path / "home" / "hub" / f"models--{ORG}--tiny" / "snapshots" / commit / WEIGHTS_FILE).exists()
    hub.requests.clear()
    offline = f"""
import pspnet_zoo
from huggingface_hub import constants
pspnet_zoo.from_pretrained("{NAME}")
try:
    pspnet_zoo.from_pretrained("{ORG}/other")
except pspnet_zoo.WeightsError as error:
    print(error)
constants.HF_HUB_OFFLINE = False
pspnet_zoo.from_pretrained("{NAME}@{commit}")
"""
    assert "see HF_HUB_OFFLINE" in run(offline, HF_HUB_OFFLINE="1")
    assert not hub.requests
