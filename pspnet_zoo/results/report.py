"""A table of what is in images, a row for each, written as they come: CSV, JSON lines or Parquet."""

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..extras import missing_extra

FORMATS = (".csv", ".jsonl", ".parquet")

_PARQUET_ROWS = 1000  # in memory


class ReportWriter:
    """A file that appears under its name when the report is closed, with all rows up to then.

    Columns: path, frame and time in seconds (of videos only), height and width in pixels, `fraction_NAME` for each class (0..1),
    seconds of work, and error (empty where there is none). In JSON lines and Parquet the shares are one field, `class_fractions`.

    Args:
        path: Ends in .csv, .jsonl or .parquet.
        classes: Names in the order of the ids.
        video: Add frame and time.

    Raises:
        ValueError: If the path has another ending.
        ImportError: If it ends in .parquet and pyarrow is not installed.
        OSError: If it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], classes: Sequence[str], *, video: bool = False) -> None:
        self._path, self._classes = Path(path), list(classes)
        check_report(self._path)
        self._head = ["path", *(["frame", "time"] if video else []), "height", "width"]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        opened = {".csv": self._csv, ".jsonl": self._jsonl, ".parquet": self._parquet}[self._path.suffix.lower()]()
        self._write, self._close = opened

    def __enter__(self) -> "ReportWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Also after an error or Ctrl-C: the rows so far are true."""
        self._close()
        os.replace(self._part, self._path)

    def add(
        self,
        path: str | os.PathLike[str],
        *,
        size: tuple[int, int] | None = None,
        class_fractions: dict[str, float] | None = None,
        seconds: float | None = None,
        error: Exception | str | None = None,
        frame: int | None = None,
        time: float | None = None,
    ) -> None:
        """Write a row; `size` is (height, width)."""
        height, width = size or (None, None)
        head = {"path": os.fspath(path), "frame": frame, "time": time, "height": height, "width": width}
        row = {key: head[key] for key in self._head}
        self._write({**row, "class_fractions": class_fractions, "seconds": seconds, "error": None if error is None else str(error)})

    def _csv(self) -> tuple[Callable[[dict[str, Any]], object], Callable[[], object]]:
        file = self._part.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        columns = [*self._head, *(f"fraction_{name}" for name in self._classes), "seconds", "error"]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()

        def write(row: dict[str, Any]) -> None:
            class_fractions = row.pop("class_fractions") or {}
            writer.writerow({**row, **{f"fraction_{name}": fraction for name, fraction in class_fractions.items()}})

        return write, file.close

    def _jsonl(self) -> tuple[Callable[[dict[str, Any]], object], Callable[[], object]]:
        file = self._part.open("w", encoding="utf-8")
        return lambda row: file.write(json.dumps(row) + "\n"), file.close

    def _parquet(self) -> tuple[Callable[[dict[str, Any]], object], Callable[[], object]]:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        types = {"path": pa.string(), "frame": pa.int64(), "time": pa.float64(), "height": pa.int32(), "width": pa.int32()}
        class_fractions = pa.struct([(name, pa.float64()) for name in self._classes])
        tail = [("class_fractions", class_fractions), ("seconds", pa.float64()), ("error", pa.string())]
        schema = pa.schema([*((name, types[name]) for name in self._head), *tail])
        writer, rows = ParquetWriter(self._part, schema, compression="zstd"), []

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        def write(row: dict[str, Any]) -> None:
            rows.append({**row, "path": row["path"].encode(errors="replace").decode()})
            if len(rows) == _PARQUET_ROWS:
                flush()

        def close() -> None:
            flush()
            writer.close()

        return write, close


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
