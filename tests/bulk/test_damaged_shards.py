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
            for shard, (problem, damaged, opens) in zip(missing, answers, strict=False):
                given.append(shard)
                done = 0 if problem else rows
                values = {"shard": shard, "images": done, "failures": 0, "problem": problem, "damaged": damaged, "opens": opens}
                yield {**values, "seconds": 1.0, "ended": 10.0 + shard, "worker": "host:1"}

        monkeypatch.setattr(bulk.ray, "is_initialized", lambda: True)
        monkeypatch.setattr(bulk, "_results", results)
        with pytest.raises(OSError) as caught:
            bulk.run(str(source), str(tmp_path / "out"), model, rows_per_shard=rows, progress=lambda s, _: seen.append(s.images))
        return str(caught.value), given

    seen = run.seen = []
    return run


GOOD = ("", "", True)


def bad(name, opens=True):
    return f"'{name}' cannot be read as Parquet: oh", name, opens


def gone(name):
    return bad(name, opens=False)


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


def test_files_that_are_damaged_never_keep_a_job_from_the_others(run):
    message, given = run(*map(bad, "abcdefghij"), GOOD, GOOD, rows=1)
    assert len(given) == 12 and message.startswith("Shards are missing, 10 of 12 with 10 images")


def test_three_files_in_a_row_that_cannot_be_opened_end_the_job(run):
    first = [gone("a"), gone("b"), GOOD, gone("c"), gone("c"), gone("d"), bad("e")]
    message, given = run(*first, gone("f"), gone("g"), gone("h"), GOOD, rows=1)
    assert len(given) == 10 and message == (
        "3 files in a row cannot be opened; check the storage. The last one: 'h' cannot be read as Parquet: oh"
    )


def test_a_worker_that_fails_otherwise_ends_the_job_at_once(run):
    message, given = run(bad("a"), ("No space left on device", "", True), GOOD, GOOD)
    assert given == [0, 1] and message == "The worker host:1 failed: No space left on device"


@pytest.fixture
def worker(monkeypatch, one_thread):
    """One worker, in this process, does the shards of three images; `before` is called when the driver has opened the files."""

    def results(inputs, missing, destination, manifest, files, *_):
        worker = bulk._Worker(files, destination, manifest, "cpu")
        results.before()
        for shard in missing:
            part = inputs.part(3 * shard, 3 * shard + 3)
            yield {key: value[0] for key, value in worker({"shard": np.array([shard]), "part": np.array([part])}).items()}

    results.before = lambda: None
    monkeypatch.setattr(bulk.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(bulk.ray, "get", lambda files: files)
    monkeypatch.setattr(bulk, "_results", results)
    return results


def damaged(file, group):
    """The bytes of a file with a page that is not one."""
    whole, place = file.read_bytes(), pq.ParquetFile(file).metadata.row_group(group).column(0).data_page_offset
    return whole[:place] + b"\xff" * 40 + whole[place + 40 :]


def test_a_job_resumes_whatever_is_damaged_and_ends_where_no_file_can_be_opened(source, tmp_path, model, worker):
    whole = (source / "a.parquet").read_bytes()
    (source / "a.parquet").write_bytes(damaged(source / "a.parquet", 0))
    for name in "bcd":  # four files of twelve images, of which each lacks the first three
        (source / f"{name}.parquet").write_bytes((source / "a.parquet").read_bytes())
    (source / "e.parquet").write_bytes(whole)
    command = (str(source), str(tmp_path / "out"), model)
    (tmp_path / "out").mkdir()
    done = [0, 4, 8, 12]
    for _ in range(2):
        with pytest.raises(OSError, match="Shards are missing, 4 of 20 with 12 images, .* other 48 images are done"):
            bulk.run(*command, workers=1, rows_per_shard=3)
        assert not [k for k in done if (tmp_path / "out" / f"part-{k:06}.parquet").exists()]
        (tmp_path / "out" / "part-000019.parquet").unlink()  # as if the job had been stopped before its end
    worker.before = lambda: [file.unlink() for file in source.iterdir()]
    with pytest.raises(OSError, match="3 files in a row cannot be opened; check the storage. The last one: '.*c.parquet' cannot"):
        bulk.run(*command, workers=1, rows_per_shard=3)


def test_a_damaged_page_costs_its_shard_until_it_can_be_read(source, tmp_path, model, worker):
    file = source / "a.parquet"
    whole, times = file.read_bytes(), file.stat()

    def write(data):
        file.write_bytes(data)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    write(damaged(file, 1))
    words = r"missing, 1 of 4 with 3 images, .* other 9 images are done.* part-000001.parquet: '.*a.parquet' cannot be read"
    for _ in range(2):
        with pytest.raises(OSError, match=words):
            bulk.run(str(source), str(tmp_path / "out"), model, workers=1, rows_per_shard=3)
    assert sorted(p.name for p in (tmp_path / "out").glob("part-*")) == [f"part-00000{k}.parquet" for k in (0, 2, 3)]
    write(whole)
    summary = bulk.run(str(source), str(tmp_path / "out"), model, workers=1, rows_per_shard=3)
    assert (summary.images, summary.skipped, summary.failures) == (3, 9, 0)
