"""Parquet files of which a part cannot be read: the other shards are done, and the same command tries the missing ones again."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ray", reason="the extra bulk is not installed")

import pyarrow as pa
import pyarrow.parquet as pq

from pspnet_zoo import PSPNet
from pspnet_zoo.bulk import driver as bulk
from pspnet_zoo.data.labels import CAMVID

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    net = PSPNet("test_efficientnet", None, classes=len(CAMVID), psp_out_channels=16)
    net.labels = CAMVID
    return str(net.save_pretrained(tmp_path_factory.mktemp("model")))


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # a worker takes one


@pytest.fixture
def source(tmp_path):
    """Twelve images in a Parquet file with three of them in each group of rows."""
    random = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    data = []
    for _ in range(12):
        Image.fromarray(random.integers(0, 256, (32, 40, 3), np.uint8)).save(tmp_path / "one.png")
        data.append((tmp_path / "one.png").read_bytes())
    pq.write_table(pa.table({"image": data}), tmp_path / "set" / "a.parquet", row_group_size=3, compression="none")
    return tmp_path / "set"


@pytest.fixture
def run(monkeypatch, source, tmp_path, model):
    """A job of shards of three images whose workers answer with these problems and files, one for each shard."""

    def run(*answers, images=12, rows=3):
        given = []

        def results(inputs, missing, *_):
            for shard, (problem, damaged) in zip(missing, answers, strict=False):
                given.append(shard)
                done = 0 if problem else rows
                values = {"shard": shard, "images": done, "failures": 0, "problem": problem, "damaged": damaged}
                yield {**values, "seconds": 1.0, "ended": 10.0 + shard, "worker": "host:1"}

        monkeypatch.setattr(bulk.ray, "is_initialized", lambda: True)
        monkeypatch.setattr(bulk, "_results", results)
        with pytest.raises(OSError) as caught:
            bulk.run(str(source), str(tmp_path / "out"), model, rows_per_shard=rows, progress=lambda s, _: seen.append(s.images))
        return str(caught.value), given

    seen = run.seen = []
    return run


GOOD = ("", "")


def bad(name):
    return f"'{name}' cannot be read as Parquet: oh", name


def test_shards_after_one_that_cannot_be_read_are_done_and_it_is_named_at_the_end(run):
    message, given = run(bad("a"), GOOD, GOOD, GOOD)
    assert given == [0, 1, 2, 3] and run.seen == [0, 3, 6, 9]
    assert message == (
        "Shards are missing, 1 of 4 with 3 images, since their files cannot be read; the other 9 images are done. The same command "
        "tries the missing ones again. part-000000.parquet: 'a' cannot be read as Parquet: oh"
    )


def test_the_first_shards_of_many_that_are_missing_are_named(run):
    message, given = run(*[bad("a")] * 12, rows=1)
    assert len(given) == 12 and "12 of 12 with 12 images" in message  # of one file, however many
    assert message.count("part-0") == 5 and message.endswith("; and 7 more")


def test_three_files_in_a_row_that_cannot_be_read_end_the_job(run):
    message, given = run(bad("a"), bad("b"), GOOD, bad("c"), bad("c"), bad("d"), GOOD, bad("e"), bad("f"), bad("g"), GOOD, rows=1)
    assert len(given) == 10 and message == (
        "3 files in a row cannot be read; check the storage. The last one: 'g' cannot be read as Parquet: oh"
    )


def test_a_worker_that_fails_otherwise_ends_the_job_at_once(run):
    message, given = run(bad("a"), ("No space left on device", ""), GOOD, GOOD)
    assert given == [0, 1] and message == "The worker host:1 failed: No space left on device"


def test_a_damaged_page_costs_its_shard_until_it_can_be_read(source, tmp_path, model, monkeypatch, one_thread):
    def results(inputs, missing, destination, manifest, files, *_):
        worker = bulk._Worker(files, destination, manifest, "cpu")
        for shard in missing:
            part = inputs.part(3 * shard, 3 * shard + 3)
            yield {key: value[0] for key, value in worker({"shard": np.array([shard]), "part": np.array([part])}).items()}

    monkeypatch.setattr(bulk.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(bulk.ray, "get", lambda files: files)
    monkeypatch.setattr(bulk, "_results", results)
    file = source / "a.parquet"
    whole, times = file.read_bytes(), file.stat()
    place = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset

    def write(data):
        file.write_bytes(data)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    write(whole[:place] + b"\xff" * 40 + whole[place + 40 :])
    words = r"missing, 1 of 4 with 3 images, .* other 9 images are done.* part-000001.parquet: '.*a.parquet' cannot be read"
    for _ in range(2):
        with pytest.raises(OSError, match=words):
            bulk.run(str(source), str(tmp_path / "out"), model, workers=1, rows_per_shard=3)
    assert sorted(p.name for p in (tmp_path / "out").glob("part-*")) == [f"part-00000{k}.parquet" for k in (0, 2, 3)]
    write(whole)
    summary = bulk.run(str(source), str(tmp_path / "out"), model, workers=1, rows_per_shard=3)
    assert (summary.images, summary.skipped, summary.failures) == (3, 9, 0)
