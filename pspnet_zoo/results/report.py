"""A report: one row an image or frame, written as results come, as CSV, JSON lines or Parquet."""

import csv
import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..extras import missing_extra
from ..interrupts import SIGNALS
from ..storage.errors import naming
from .rows import IMAGE_COLUMNS, VIDEO_COLUMNS, ResultRow, arrow_schema, arrow_table

FORMATS = (".csv", ".jsonl", ".parquet")

_PARQUET_ROWS = 1000  # in memory

_Writers = tuple[Callable[[ResultRow], object], Callable[[], object]]
"""Functions that write a row, and that finish the file."""


class ReportWriter:
    """A file that appears under its name when the report is closed, with all rows up to then.

    Columns: see `IMAGE_COLUMNS` and `VIDEO_COLUMNS`. In CSV, the class fractions are a column a class, `fraction_NAME`.
    A pipe or device that has the report's name gets each row as it comes; of Parquet, a thousand at a time.

    Args:
        path: Ends in .csv, .jsonl or .parquet.
        classes: Names in the order of the ids.
        video: Add the columns of videos.

    Raises:
        ValueError: If the path has another ending.
        ImportError: If it ends in .parquet and pyarrow is not installed.
        OSError: If it cannot be written, also when it is closed.
    """

    def __init__(self, path: str | os.PathLike[str], classes: Sequence[str], *, video: bool = False) -> None:
        path = Path(path)
        check_report(path)
        self._columns, self._classes = VIDEO_COLUMNS if video else IMAGE_COLUMNS, list(classes)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = Path(os.path.realpath(path))  # of a link, the file that it leads to
        is_stream = path.exists() and not path.is_file()
        self._part = self._path if is_stream else self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        self._file: BinaryIO = self._part.open("wb")
        self._write, self._finish = {".csv": self._csv, ".jsonl": self._jsonl, ".parquet": self._parquet}[path.suffix.lower()]()

    def __enter__(self) -> "ReportWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, also after an error or Ctrl-C: the rows so far are true."""
        with _signals_held(), naming(self._path):
            try:
                with self._file:
                    self._finish()
                    self._file.flush()
                    if self._part != self._path:
                        os.fsync(self._file.fileno())
                if self._part != self._path:
                    os.replace(self._part, self._path)
            except BaseException:
                if self._part != self._path:
                    self._part.unlink(missing_ok=True)
                raise

    def add(self, row: ResultRow) -> None:
        """Write a row."""
        with naming(self._path):
            self._write(row)
            if self._part == self._path:  # somebody reads along
                self._file.flush()

    def _csv(self) -> _Writers:
        file = io.TextIOWrapper(self._file, encoding="utf-8", errors="surrogateescape", newline="", write_through=True)
        fractions = {"class_fractions": [f"fraction_{name}" for name in self._classes]}
        writer = csv.writer(file)
        writer.writerow([name for column in self._columns for name in fractions.get(column, [column])])

        def write(row: ResultRow) -> None:
            values: list[Any] = []
            for column in self._columns:
                value = getattr(row, column)
                values += [(value or {}).get(name) for name in self._classes] if column in fractions else [value]
            writer.writerow(values)

        return write, file.detach

    def _jsonl(self) -> _Writers:
        def write(row: ResultRow) -> None:
            self._file.write(json.dumps({column: getattr(row, column) for column in self._columns}).encode() + b"\n")

        return write, lambda: None

    def _parquet(self) -> _Writers:
        from pyarrow.parquet import ParquetWriter

        schema = arrow_schema(self._columns, self._classes)
        writer, rows = ParquetWriter(self._file, schema, compression="zstd"), []

        def flush() -> None:
            writer.write_table(arrow_table(rows, self._columns, schema))
            rows.clear()

        def write(row: ResultRow) -> None:
            rows.append(row)
            if len(rows) == _PARQUET_ROWS:
                flush()

        def finish() -> None:
            flush()
            writer.close()

        return write, finish


def check_report(path: Path) -> None:
    """Refuse a report before any work is done for it.

    Raises:
        ValueError: If its ending is not one of `FORMATS`.
        ImportError: If it needs pyarrow, which is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"The report '{path}' must end in one of {', '.join(FORMATS)}")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise missing_extra("A Parquet report, unlike .csv and .jsonl,", "bulk", error) from None


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP wait until the block is done, so that an impatient user or system cannot lose a report."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {}
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            handlers[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received[:1]:
            signal.raise_signal(number)
