import csv
import json
import os

import pytest

from pspnet_zoo.results.report import ReportWriter, check_report

SHARES = {"road": 0.75, "sky": 0.25}


def fill(report):
    report.add("a.jpg", size=(3, 4), class_fractions=SHARES, seconds=0.5, frame=7, time=0.28)
    report.add("ä, b.jpg", error=ValueError("is not an image"))


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
        "class_fractions": SHARES,
        "seconds": 0.5,
        "error": None,
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
        report.add(os.fsdecode(b"\xff.jpg"))
    written = path.read_bytes()
    assert {".csv": b"\n\xff.jpg,,", ".jsonl": b'{"path": "\\udcff.jpg", "height"', ".parquet": b"?.jpg"}[suffix] in written


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
    with pytest.raises(ImportError, match=r"pip install 'pspnet-zoo\[bulk\]'"):
        check_report(tmp_path / "r.parquet")
