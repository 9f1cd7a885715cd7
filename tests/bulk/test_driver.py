"""Bulk work against one image after another, on a real Ray of this machine."""

import hashlib
import io
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ray", reason="the extra bulk is not installed")

import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import ray

from pspnet_zoo import Predictor, PSPNet, export
from pspnet_zoo.bulk import driver as bulk
from pspnet_zoo.bulk.shards import Destination, Manifest
from pspnet_zoo.bulk.sources import open_source
from pspnet_zoo.data.labels import CAMVID
from tests.inference.damage import damaged

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    net = PSPNet("test_efficientnet", None, classes=len(CAMVID), psp_out_channels=16)
    net.labels = CAMVID
    return str(net.save_pretrained(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def local_ray():
    # of the workers, who inherit it
    os.environ.update(PYTHONPATH=str(ROOT), AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing")
    # a GPU to Ray, whether there is one or not: workers that find none compute on CPUs
    ray.init(
        num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=200 * 2**20
    )
    yield
    ray.shutdown()


@pytest.fixture
def one_thread():
    """As workers have, since torch's last bits depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_what_is_switched_off_in_ray_is_where_it_was():
    """`_start` and `_results` quieten Ray's own lines by these; where Ray moves them, its lines are shown beside ours."""
    handlers = logging.getLogger("ray.data").handlers
    assert any(isinstance(handler, logging.StreamHandler) and handler.level < logging.CRITICAL for handler in handlers)
    context = ray.data.DataContext.get_current()
    assert {"enable_progress_bars", "print_on_execution_start"} <= set(dir(context))


def test_a_cluster_that_the_run_started_ends_with_it_and_sigterm_is_the_callers_again(tmp_path, model, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    handlers, results = [], bulk._results
    monkeypatch.setattr(bulk, "_results", lambda *a: handlers.append(signal.getsignal(signal.SIGTERM)) or results(*a))
    before = signal.getsignal(signal.SIGTERM)
    assert bulk.run(str(tmp_path), str(tmp_path / "out"), model).images == 1  # with as many workers as there are cores
    assert handlers == [before] and not ray.is_initialized()


def write_images(folder, count, *, bad=True, size=(40, 56)):
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        height, width = size[0] + i % 3, size[1] + i % 2 * 4
        path = folder / f"{i % 5}" / f"{i:05}.{'jpg' if i % 2 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    for name, data in (damaged() if bad else {}).items():
        (folder / name).write_bytes(data)
    return folder


def check(destination, folder, model, names=None):
    """Every image once, each mask as one-by-one prediction has it, and an error for each that cannot be read."""
    rows = pds.dataset(str(destination)).to_table().to_pylist()
    names = names or sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*"))
    assert sorted(row["path"] for row in rows) == names
    predictor = Predictor(model, threads=1)
    for row in rows:
        if row["path"] in damaged():
            assert row["error"].startswith("The file ")  # the same in every run
            assert row["mask"] is row["class_fractions"] is row["height"] is None
            continue
        prediction = predictor(folder / row["path"])
        with Image.open(io.BytesIO(row["mask"])) as mask:
            assert (np.array(mask) == prediction.mask).all(), row["path"]
        buffer = io.BytesIO()
        assert row["input_sha256"] == hashlib.sha256((folder / row["path"]).read_bytes()).hexdigest()
        prediction.save(path := folder.parent / "one.png")
        buffer.write(path.read_bytes())
        assert row["mask"] == buffer.getvalue() and row["error"] is None
        assert row["class_fractions"] == prediction.class_fractions and (row["height"], row["width"]) == prediction.mask.shape
    return rows


@pytest.mark.usefixtures("local_ray", "one_thread")
class TestOnOneMachine:
    @pytest.mark.parametrize(("workers", "rows"), [pytest.param(1, 7, marks=pytest.mark.slow), (2, 16)])
    def test_every_image_is_there_once_and_as_if_predicted_alone(self, tmp_path, model, workers, rows):
        source = write_images(tmp_path / "src", 30)
        summary = bulk.run(str(source), str(tmp_path / "out"), model, workers=workers, rows_per_shard=rows)
        assert (summary.images, summary.failures, summary.skipped) == (40, 10, 0)
        assert sum(n for n, _ in summary.workers.values()) == 40 and summary.seconds > 0
        check(tmp_path / "out", source, model)
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.*")}
        again = bulk.run(str(source), str(tmp_path / "out"), model, workers=workers, rows_per_shard=rows)
        assert (again.images, again.skipped) == (0, 40)
        (tmp_path / "out" / "part-000001.parquet").unlink()
        again = bulk.run(str(source), str(tmp_path / "out"), model, workers=workers, rows_per_shard=rows)
        assert (again.images, again.skipped) == (rows, 40 - rows)
        check(tmp_path / "out", source, model)
        after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.*")}
        assert [p.name for p in before if before[p] != after[p]] == ["part-000001.parquet"]

    @pytest.mark.parametrize(
        "name", ["street.onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("street.xml", "street"))]
    )
    def test_exported_networks_work_too(self, tmp_path, model, name):
        source = write_images(tmp_path / "src", 4, bad=False)
        exported = str(export(model, tmp_path / name))
        summary = bulk.run(str(source), str(tmp_path / "out"), exported, workers=1)
        assert (summary.images, summary.failures) == (4, 0)
        check(tmp_path / "out", source, exported)

    def test_a_changed_source_or_model_is_refused(self, tmp_path, model):
        source = write_images(tmp_path / "src", 3, bad=False)
        bulk.run(str(source), str(tmp_path / "out"), model, workers=1)
        Image.new("RGB", (8, 8)).save(source / "new.png")
        with pytest.raises(ValueError, match="the images have changed, images was 3, now 4"):
            bulk.run(str(source), str(tmp_path / "out"), model, workers=1)
        (source / "new.png").unlink()
        torch.manual_seed(1)
        net = PSPNet("test_efficientnet", None, classes=len(CAMVID), psp_out_channels=16)
        net.labels = CAMVID
        with pytest.raises(ValueError, match="it is another model"):
            bulk.run(str(source), str(tmp_path / "out"), str(net.save_pretrained(tmp_path / "other")), workers=1)

    def test_parquet_in_and_files_out(self, tmp_path, model):
        source = write_images(tmp_path / "src", 6, bad=False)
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*.*"))
        data = [(source / name).read_bytes() for name in names]
        (tmp_path / "set").mkdir()
        pq.write_table(
            pa.table({"image": [*data, b"bad"], "path": [*names, None]}), tmp_path / "set" / "a.parquet", row_group_size=2
        )
        summary = bulk.run(str(tmp_path / "set"), str(tmp_path / "out"), model, workers=1, rows_per_shard=3, as_files=True)
        assert (summary.images, summary.failures) == (7, 1)
        rows = pds.dataset([str(p) for p in sorted((tmp_path / "out").glob("*.parquet"))]).to_table().to_pylist()
        assert [row["path"] for row in rows] == [*names, "a.parquet/6"] and rows[-1]["mask"] is None and rows[-1]["error"]
        for row in rows[:-1]:
            with Image.open(tmp_path / "out" / row["mask"]) as mask:
                assert (np.array(mask) == Predictor(model)(source / row["path"]).mask).all()

    def test_source_and_destination_on_s3(self, tmp_path, model, s3):
        source = write_images(tmp_path / "src", 8)
        for path in source.rglob("*.*"):
            s3.put(f"in/{path.relative_to(source).as_posix()}", path.read_bytes())
        summary = bulk.run(s3.uri("in"), s3.uri("out"), model, workers=2, rows_per_shard=5)
        assert (summary.images, summary.failures) == (18, 10)
        (tmp_path / "out").mkdir()
        assert all(name.startswith(("part-", "_manifest")) for name in s3.names("out/"))
        for name in s3.names("out/"):
            (tmp_path / "out" / name).write_bytes(s3.get(f"out/{name}"))
        check(tmp_path / "out", source, model)
        assert bulk.run(s3.uri("in"), s3.uri("out"), model, workers=2, rows_per_shard=5).skipped == 18

    def test_relative_paths_are_those_of_the_command_and_not_of_its_workers(self, tmp_path, model, monkeypatch):
        source = write_images(tmp_path / "src", 2, bad=False)
        monkeypatch.chdir(tmp_path)  # the workers' is that of the tests
        summary = bulk.run("src", "out", model, workers=1)
        assert (summary.images, summary.failures) == (2, 0)
        check(tmp_path / "out", source, model)

    def test_a_worker_that_cannot_write_ends_the_job_in_one_sentence(self, tmp_path, model):
        source = write_images(tmp_path / "src", 1, bad=False)
        (tmp_path / "out" / "masks").mkdir(parents=True)
        (tmp_path / "out" / "masks" / "0").write_text("in the way of a folder")
        with pytest.raises(OSError, match="The worker .* failed: .*masks/0"):
            bulk.run(str(source), str(tmp_path / "out"), model, workers=1, as_files=True)

    @pytest.mark.slow
    def test_a_worker_holds_the_part_of_a_gpu_that_is_asked_for(self, tmp_path, model):
        source = write_images(tmp_path / "src", 4, bad=False)
        free = []
        options = {"workers": 1, "rows_per_shard": 1, "gpus_per_worker": 0.5}
        note = lambda *_: free.append(ray.available_resources().get("GPU"))  # noqa: E731
        summary = bulk.run(str(source), str(tmp_path / "out"), model, **options, progress=note)
        assert (summary.images, summary.failures) == (4, 0) and free[0] == 1 and min(free) == 0.5

    @pytest.mark.slow
    def test_five_thousand_small_images(self, tmp_path, model):
        source = write_images(tmp_path / "src", 4990, size=(24, 32))
        summary = bulk.run(str(source), str(tmp_path / "out"), model, workers=2)
        assert (summary.images, summary.failures) == (5000, 10)
        check(tmp_path / "out", source, model)


class S3:
    """A bucket of moto's server, which speaks S3 over HTTP on 127.0.0.1."""

    def __init__(self, endpoint):
        import boto3

        self._endpoint = endpoint
        self._client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1")
        self._client.create_bucket(Bucket="bucket")

    def uri(self, path):
        return f"s3://bucket/{path}?scheme=http&endpoint_override={self._endpoint}&region=us-east-1&allow_bucket_creation=true"

    def put(self, key, data):
        self._client.put_object(Bucket="bucket", Key=key, Body=data)

    def get(self, key):
        return self._client.get_object(Bucket="bucket", Key=key)["Body"].read()

    def names(self, prefix):
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix)
        names = [item["Key"][len(prefix) :] for page in pages for item in page.get("Contents", [])]
        return [name for name in names if name]


@pytest.fixture(scope="module")
def s3_server():
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server):
    return S3(s3_server)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_killed_worker_and_a_removed_node_lose_and_double_nothing(tmp_path, model):
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized()
    source = write_images(tmp_path / "src", 600)
    os.environ["PYTHONPATH"] = str(ROOT)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    done, killed, removed = [], [], []

    def interfere(summary, total):
        done.append(summary.images)
        if summary.images >= 100 and not killed:
            killed.append(next(iter(summary.workers)))
            os.kill(int(killed[0].rpartition(":")[2]), signal.SIGKILL)
        if summary.images >= 300 and not removed:
            removed.append(True)
            cluster.remove_node(second, allow_graceful=False)

    try:
        summary = bulk.run(str(source), str(tmp_path / "out"), model, rows_per_shard=10, progress=interfere)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed and removed and len(summary.workers) >= 2
    rows = check(tmp_path / "out", source, model)
    assert len(rows) == 610 and not list((tmp_path / "out").glob(".*"))


def test_an_image_is_read_once_and_its_failure_is_a_row(tmp_path, model):
    """Without Ray: what a worker does with a part."""
    source = write_images(tmp_path / "src", 2)
    strange = source / os.fsdecode(b"caf\xe9.png")
    strange.write_bytes((source / "0" / "00000.png").read_bytes())
    (source / "dead.png").symlink_to(source / "nowhere.png")
    os.mkfifo(source / "pipe.png")
    qoi = b"qoif" + struct.pack(">IIBB", 64, 48, 3, 0)  # a header, and no pixels
    (source / "qoi.png").write_bytes(qoi)
    inputs = open_source(str(source))
    files, digest = bulk.pack_model(model)
    manifest = Manifest(str(source), inputs.digest, len(inputs), 100, model, digest, False)
    rows = bulk.segment_part(
        bulk.load_files(files, "cpu"), inputs.part(0, len(inputs)), manifest, Destination(str(tmp_path / "out"))
    )
    done = {row.path: row for row in rows if row.error is None}
    assert set(done) == {"0/00000.png", "1/00001.jpg", strange.name} and len(rows) == 16
    assert done[strange.name].mask == done["0/00000.png"].mask and len({row.model_sha256 for row in rows}) == 1
    failed = {row.path: row for row in rows if row.error is not None}
    assert failed["qoi.png"].input_sha256 == hashlib.sha256(qoi).hexdigest() and failed["dead.png"].input_sha256 is None
    assert "is a folder, a pipe" in failed["pipe.png"].error and "dead.png" in failed["dead.png"].error


def test_a_geotiff_has_the_mask_that_one_by_one_prediction_gives(tmp_path, model, one_thread):
    pytest.importorskip("rasterio", reason="the extra raster is not installed")
    from tests.data.test_rasters import write_tiff

    (tmp_path / "src").mkdir()
    pixels = np.random.default_rng(0).integers(1, 256, (3, 40, 56), np.uint8)
    write_tiff(tmp_path / "src" / "b.TIFF", pixels)
    pixels[:, 8:20, 10:30] = 0
    write_tiff(tmp_path / "src" / "a.tif", pixels, nodata=0)
    write_tiff(tmp_path / "src" / "none.tif", np.zeros_like(pixels), nodata=0)
    inputs = open_source(str(tmp_path / "src"))
    manifest = Manifest("src", inputs.digest, len(inputs), 100, model, "", False)
    predictor = Predictor(model, threads=1)
    *rows, none = bulk.segment_part(predictor, inputs.part(0, 3), manifest, Destination(str(tmp_path / "out")))
    assert [row.path for row in rows] == ["a.tif", "b.TIFF"] and none.error == "The file has no data in any pixel"
    for row, gaps in zip(rows, (240, 0), strict=True):
        prediction = predictor(tmp_path / "src" / row.path)
        assert row.mask == prediction.png() and row.class_fractions == prediction.class_fractions
        assert (prediction.mask == 255).sum() == gaps


DRIVER = """
import sys
from pspnet_zoo.bulk import driver as bulk
summary = bulk.run(*sys.argv[1:4], workers=2, rows_per_shard=10)
print(summary.images, summary.skipped)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_killed_driver_is_completed_by_the_same_command(tmp_path, model):
    source, out = write_images(tmp_path / "src", 600), tmp_path / "out"
    command = [sys.executable, "-c", DRIVER, source, out, model]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 500
    while len(list(out.glob("part-*"))) < 15 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(5)  # Ray ends the workers of a driver that is gone
    before = {p: p.stat().st_mtime_ns for p in out.glob("part-*")}
    assert 15 <= len(before) < 61
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.stdout.split() == [str(610 - 10 * len(before)), str(10 * len(before))], result.stderr
    assert all(p.stat().st_mtime_ns == mtime for p, mtime in before.items())  # nothing was done twice
    check(out, source, model)
    assert json.loads((out / "_manifest.json").read_text())["images"] == 610


def test_the_seconds_of_a_worker_are_those_of_its_shards():
    summary = bulk.Summary()
    for ended in (5.0, 9.0):
        summary.add({"worker": "a:1", "images": 3, "failures": 1, "seconds": 2.0, "ended": ended}, 1.0)
    assert (summary.images, summary.failures, summary.seconds, summary.workers) == (6, 2, 8.0, {"a:1": (6, 4.0)})


def test_there_are_as_many_workers_as_the_cluster_holds():
    assert bulk._most_workers({"CPU": 8.0}, 0) == 8
    assert bulk._most_workers({"CPU": 8.0, "GPU": 2.0}, 0.5) == 4
    assert bulk._most_workers({"CPU": 8.0, "GPU": 1.0}, 2) == 1  # it may grow
    assert bulk._most_workers({}, 0) == bulk._most_workers({}, 1) == 1


def test_a_worker_has_one_thread_so_that_its_masks_are_those_of_any_machine(model, monkeypatch):
    given = {}
    monkeypatch.setattr(bulk, "Predictor", lambda *_, **options: given.update(options))
    bulk.load_files({"config.json": b"{}"}, "cpu")
    assert given["threads"] == 1


def test_as_many_gpus_as_there_are_can_be_asked_for(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 1.0})
    bulk._check_gpus(1)
    with pytest.raises(ValueError, match="gpus_per_worker is 1.5, and this machine has 1 GPUs; leave it out"):
        bulk._check_gpus(1.5)


def test_gpus_that_are_not_there_are_not_waited_for(tmp_path, model, local_ray):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="gpus_per_worker is 2, and this machine has 1 GPUs; leave it out"):
        bulk.run(str(tmp_path), str(tmp_path / "out"), model, gpus_per_worker=2)


def test_a_column_is_of_parquet(tmp_path, model):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="column is 'image', which is of Parquet, and the source is a folder"):
        bulk.run(str(tmp_path), str(tmp_path / "out"), model, column="image")


def test_a_name_that_is_too_long_for_its_mask_is_the_failure_of_its_image(tmp_path, model):
    (tmp_path / "src").mkdir()
    for name in ("a.png", f"{'x' * 245}.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / "src" / name)
    inputs = open_source(str(tmp_path / "src"))
    manifest = Manifest("src", inputs.digest, len(inputs), 100, model, "", True)
    rows = bulk.segment_part(Predictor(model, threads=1), inputs.part(0, 2), manifest, Destination(str(tmp_path / "out")))
    assert rows[0].error is None and "name" in (rows[1].error or "") and rows[1].mask is None
