import csv
import json
import os
import signal

import pytest

from pspnet_zoo.results.report import ReportWriter, check_report
from pspnet_zoo.results.rows import ResultRow
from pspnet_zoo.storage.errors import message_of

FRACTIONS = {"road": 0.75, "sky": 0.25}
MODEL = {"model": "street", "model_sha256": "ef"}


def fill(report):
    report.add(ResultRow("a.jpg", 3, 4, FRACTIONS, seconds=0.5, input_sha256="ab", frame=7, time=0.28, **MODEL))
    report.add(ResultRow("ä, b.jpg", error="is not an image", **MODEL))


@pytest.mark.parametrize("video", [False, True])
def test_csv_has_a_row_an_image_and_a_column_a_class(tmp_path, video):
    with ReportWriter(tmp_path / "r.csv", ("road", "sky"), video=video) as report:
        fill(report)
        assert not (tmp_path / "r.csv").exists()
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    expected = {
        "path": "a.jpg",
        "height": "3",
        "width": "4",
        "fraction_road": "0.75",
        "fraction_sky": "0.25",
        "seconds": "0.5",
        "error": "",
        "input_sha256": "ab",
        **MODEL,
    }
    assert first == {**expected, **({"frame": "7", "time": "0.28"} if video else {})}
    assert second["path"] == "ä, b.jpg" and second["error"] == "is not an image" and second["fraction_road"] == ""


def test_json_lines_and_parquet_say_the_same(tmp_path):
    for suffix in (".jsonl", ".parquet"):
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
        with ReportWriter(tmp_path / f"r{suffix}", ("road", "sky"), video=True) as report:
            for _ in range(600):
                fill(report)
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    expected = {
        "path": "a.jpg",
        "frame": 7,
        "time": 0.28,
        "height": 3,
        "width": 4,
        "class_fractions": FRACTIONS,
        "seconds": 0.5,
        "error": None,
        "input_sha256": "ab",
        **MODEL,
    }
    assert len(rows) == 1200 and rows[0] == expected and rows[1]["class_fractions"] is None
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "r.parquet").to_pylist() == rows
    parts = pq.ParquetFile(tmp_path / "r.parquet").metadata
    assert parts.num_row_groups == 2 and parts.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_name_that_is_no_text_is_reported_too(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / "a new folder" / "for it" / f"r{suffix}"
    with ReportWriter(path, ("road", "sky")) as report:
        report.add(ResultRow(os.fsdecode(b"\xff.jpg")))
    written = path.read_bytes()
    assert {".csv": b"\n\xff.jpg,,", ".jsonl": b'{"path": "\\udcff.jpg", "height"', ".parquet": b"\\udcff.jpg"}[suffix] in written


def test_the_rows_so_far_are_kept_when_work_stops(tmp_path):
    with pytest.raises(KeyboardInterrupt), ReportWriter(tmp_path / "r.jsonl", ("road", "sky")) as report:
        fill(report)
        raise KeyboardInterrupt
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert len(lines) == 2 and "frame" not in json.loads(lines[0]) and len(list(tmp_path.iterdir())) == 1


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in one of .csv, .jsonl, .parquet"):
        check_report(tmp_path / "r.xlsx")
    with pytest.raises(ValueError, match=r"must end in one of .csv, .jsonl, .parquet"):
        ReportWriter(tmp_path / "folder" / "r.xlsx", ("road", "sky"))
    assert not list(tmp_path.iterdir())


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[bulk\]'"):
        check_report(tmp_path / "r.parquet")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"r{suffix}"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with ReportWriter(path, ("road", "sky")) as report:
        fill(report)
    assert b"a.jpg" in os.read(reader, 1 << 16) and path.is_fifo() and [p.name for p in tmp_path.iterdir()] == [path.name]
    os.close(reader)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_pipe_gets_each_row_as_it_comes(tmp_path, suffix):
    path = tmp_path / f"r{suffix}"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with ReportWriter(path, ("road", "sky")) as report:
        for name in ("a.jpg", "b.jpg"):
            report.add(ResultRow(name))
            assert name.encode() in os.read(reader, 1 << 16)
    os.close(reader)


def test_a_link_to_a_device_stays_a_link(tmp_path):
    (tmp_path / "r.csv").symlink_to("/dev/null")
    with ReportWriter(tmp_path / "r.csv", ("road", "sky")) as report:
        fill(report)
    assert (tmp_path / "r.csv").is_symlink() and not os.path.isfile("/dev/null")


def test_a_link_to_a_file_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "r.csv").symlink_to(tmp_path / "elsewhere.csv")
    (tmp_path / "elsewhere.csv").write_text("old")
    with ReportWriter(tmp_path / "r.csv", ("road", "sky")) as report:
        fill(report)
    assert (tmp_path / "r.csv").is_symlink() and "a.jpg" in (tmp_path / "elsewhere.csv").read_text()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_full_disk_is_an_error_and_leaves_the_older_report(tmp_path, suffix):
    resource = pytest.importorskip("resource")
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"r{suffix}"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"), ReportWriter(path, ("road", "sky")) as report:
            fill(report)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_report_is_closed(tmp_path, number):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    report = ReportWriter(tmp_path / "r.csv", ("road", "sky"))
    fill(report)
    finish = report._finish
    report._finish = lambda: (signal.raise_signal(number), finish())
    try:
        with pytest.raises(KeyboardInterrupt):
            report.__exit__()
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert "a.jpg" in (tmp_path / "r.csv").read_text()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_full_disk_is_named_with_the_report(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"r{suffix}"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError) as caught, ReportWriter(path, ("road", "sky")) as report:
        for _ in range(1000):
            fill(report)
    assert message_of(caught.value) == "No space left on device: '/dev/full'. Free some space, or write to another disk"
