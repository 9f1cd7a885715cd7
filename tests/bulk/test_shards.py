import io
import json
import os
import random
import time
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="the extra bulk is not installed")

import pyarrow.dataset as pds
import pyarrow.fs
import pyarrow.parquet as pq

from pspnet_zoo.bulk import shards
from pspnet_zoo.bulk.shards import Destination, Manifest, mask_name
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.inference.prediction import Prediction
from pspnet_zoo.results.rows import ResultRow
from tests.changed_json import changed

MANIFEST = Manifest("src", "abc", 10, 4, "pspnet_lite0.camvid", "def", False)


def png(i):
    mask = np.full((3, 4), i, np.uint8)
    return Prediction(mask, mask, CAMVID).png()


def row(i, mask=None):
    fractions = dict.fromkeys(CAMVID.names, 1 / 11)
    origin = {"input_sha256": f"sha {i}", "model": MANIFEST.model, "model_sha256": MANIFEST.model_sha256}
    return ResultRow(f"{i}.jpg", 3, 4, fractions, mask=mask or png(i), **origin)


def test_what_is_missing_is_what_no_shard_says(tmp_path):
    destination = Destination(str(tmp_path / "out"))
    assert destination.begin(MANIFEST) == [0, 1, 2]
    destination.write(1, [row(4), row(5)], MANIFEST, CAMVID)
    assert destination.begin(MANIFEST) == [0, 2] and destination.has(1) and not destination.has(0)
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["source_digest"] == "abc"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_sha256": "other"}, "it is another model"),
        ({"source_digest": "other"}, "the images have changed"),
        ({"images": 11}, "images was 10, now 11"),
        ({"rows_per_shard": 5}, "rows_per_shard was 4, now 5"),
        ({"as_files": True}, "as_files was False, now True"),
    ],
)
def test_another_model_source_or_cut_is_refused(tmp_path, change, message):
    Destination(str(tmp_path)).begin(MANIFEST)
    with pytest.raises(ValueError, match=f"holds results of pspnet_lite0.camvid for src, and {message}; choose"):
        Destination(str(tmp_path)).begin(replace(MANIFEST, **change))


def test_a_model_and_a_source_that_moved_are_the_same(tmp_path):
    Destination(str(tmp_path)).begin(MANIFEST)
    assert Destination(str(tmp_path)).begin(replace(MANIFEST, model="copy", source="elsewhere")) == [0, 1, 2]


def test_a_half_written_shard_does_not_count_and_is_removed(tmp_path):
    (tmp_path / ".part-000001.parquet.77").write_bytes(b"half")
    assert Destination(str(tmp_path)).begin(MANIFEST) == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["_manifest.json"]


def test_storage_without_locks_holds_whole_files_and_loses_what_was_abandoned(monkeypatch):
    destination = Destination("mock:///bucket/out/of/it")  # pyarrow's storage in memory
    system, root = destination._system, destination._root
    with destination.locked():
        assert destination.begin(MANIFEST) == [0, 1, 2]
    destination.write(1, [row(4)], MANIFEST, CAMVID)
    assert destination.write_mask("a/b.jpg", b"mask") == "masks/a/b.jpg.png"
    with system.open_output_stream(f"{root}/.part-000002.parquet.77") as file:
        file.write(b"of another run, perhaps")
    assert destination.begin(MANIFEST) == [0, 2] and destination.has(1)

    def files():
        found = system.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
        return sorted(info.path.removeprefix(f"{root}/") for info in found if info.is_file)

    kept = ["_manifest.json", "masks/a/b.jpg.png", "part-000001.parquet"]
    assert files() == [".part-000002.parquet.77", *kept], "nothing half-written but what another run may be writing"
    assert system.open_input_file(f"{root}/masks/a/b.jpg.png").read() == b"mask"
    assert pq.read_table(system.open_input_file(f"{root}/part-000001.parquet"))["path"].to_pylist() == ["4.jpg"]
    monkeypatch.setattr(shards, "_ABANDONED", timedelta(0))
    destination.begin(MANIFEST)
    assert files() == kept


def test_rows_come_back_as_they_were(tmp_path):
    destination = Destination(str(tmp_path))
    destination.begin(MANIFEST)
    destination.write(0, [row(1), ResultRow("bad.jpg", error="is not an image")], MANIFEST, CAMVID)
    good, bad = pds.dataset(tmp_path).to_table().to_pylist()
    with Image.open(io.BytesIO(good["mask"])) as mask:
        assert mask.mode == "P" and (np.array(mask) == 1).all() and mask.getpalette()[3:6] == list(CAMVID.colors[1])
    assert good["class_fractions"]["road"] == 1 / 11 and good["error"] is None and (good["height"], good["width"]) == (3, 4)
    assert bad["error"] == "is not an image" and bad["mask"] is bad["class_fractions"] is bad["height"] is None
    assert (good["model"], good["model_sha256"], good["input_sha256"]) == ("pspnet_lite0.camvid", "def", "sha 1")
    assert json.loads(pq.read_schema(tmp_path / "part-000000.parquet").metadata[b"labels"])["names"] == list(CAMVID.names)


def test_as_files_the_masks_lie_beside_the_shards(tmp_path):
    destination, manifest = Destination(str(tmp_path)), replace(MANIFEST, as_files=True)
    destination.begin(manifest)
    destination.write(0, [row(2, destination.write_mask("sub/2.jpg", png(2)))], manifest, CAMVID)
    (only,) = pds.dataset([str(p) for p in tmp_path.glob("*.parquet")]).to_table().to_pylist()
    assert only["mask"] == "masks/sub/2.jpg.png"
    with Image.open(tmp_path / only["mask"]) as mask:
        assert (np.array(mask) == 2).all()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.jpg", "masks/a.jpg.png"),
        ("../../etc/a.jpg", "masks/etc/a.jpg.png"),
        ("/abs/a.jpg", "masks/abs/a.jpg.png"),
        ("s3://bucket/a.jpg", "masks/bucket/a.jpg.png"),
        ("C:\\x\\a.jpg", "masks/C__x_a.jpg.png"),
        ("caf\udce9.jpg", "masks/caf%E9.jpg.png"),
        ("caf\udc80\udcff.jpg", "masks/caf%80%FF.jpg.png"),
    ],
)
def test_a_mask_never_leaves_the_destination(path, name):
    assert mask_name(path) == name


def test_a_name_that_is_not_unicode_is_a_row_all_the_same(tmp_path):
    destination = Destination(str(tmp_path))
    destination.begin(MANIFEST)
    destination.write(0, [ResultRow("caf\udce9.jpg", error="'caf\udce9.jpg' is not an image")], MANIFEST, CAMVID)
    (only,) = pds.dataset(tmp_path).to_table().to_pylist()
    assert only["path"] == "caf\\udce9.jpg" and only["error"] == "'caf\\udce9.jpg' is not an image"


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_manifest_is_one_line_with_its_name(tmp_path, content):
    (tmp_path / "_manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match="_manifest.json' is damaged; choose another destination"):
        Destination(str(tmp_path)).begin(MANIFEST)
    assert (tmp_path / "_manifest.json").read_bytes() == content


def test_a_second_run_is_kept_out_and_removes_nothing(tmp_path, monkeypatch):
    first, second = Destination(str(tmp_path / "out")), Destination(str(tmp_path / "out"))
    with first.locked():
        first.begin(MANIFEST)
        (tmp_path / "out" / ".part-000001.parquet.77").write_bytes(b"half")
        monkeypatch.setattr("pspnet_zoo.bulk.shards.PATIENCE", 0.1)
        with pytest.raises(OSError, match="Another run writes to '.*out'; wait for its end"), second.locked():
            second.begin(MANIFEST)
        assert (tmp_path / "out" / ".part-000001.parquet.77").exists()
    with second.locked():
        assert second.begin(MANIFEST) == [0, 1, 2]
    assert not list((tmp_path / "out").glob(".*"))


def test_where_there_are_no_locks_only_old_parts_are_removed(tmp_path, monkeypatch):
    destination = Destination(str(tmp_path))
    monkeypatch.setattr(destination, "_is_local", False)
    for name in ("1.old", "2.new"):
        (tmp_path / f".part-00000{name}").write_bytes(b"half")
    os.utime(tmp_path / ".part-000001.old", (0, time.time() - 2 * 86400))
    with destination.locked():
        destination.begin(MANIFEST)
    assert [p.name for p in tmp_path.glob(".*")] == [".part-000002.new"] and not (tmp_path / "_lock").exists()


def fuzz(tmp_path, seeds):
    destination = Destination(str(tmp_path / "out"))
    destination.begin(MANIFEST)
    destination.write(1, [row(4), row(5)], MANIFEST, CAMVID)
    path, (shard,) = tmp_path / "out" / "_manifest.json", (tmp_path / "out").glob("part-*")
    text, content = path.read_bytes(), shard.read_bytes()
    for seed in seeds:
        chance = random.Random(seed)
        if seed % 2:
            new = json.dumps(changed(json.loads(text), chance)).encode()
        else:
            at = chance.randrange(len(text))
            new = text[:at] + bytes([chance.randrange(256)]) * chance.randrange(3) + text[at + 1 :]
        path.write_bytes(new)
        try:
            assert destination.begin(MANIFEST) == [0, 2]
        except ValueError as error:
            assert str(tmp_path / "out") in str(error), new
        assert path.read_bytes() == new and shard.read_bytes() == content


def test_a_hundred_changed_manifests_are_accepted_or_refused_by_name(tmp_path):
    fuzz(tmp_path, range(100))


@pytest.mark.slow
def test_thousands_of_changed_manifests_are_accepted_or_refused_by_name(tmp_path):
    fuzz(tmp_path, range(100, 4100))
