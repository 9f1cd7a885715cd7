"""Where many images come from: a folder, a list or a Parquet dataset, on any file system that pyarrow has (local, s3://, gs://).

Needs the extra `bulk` (pyarrow).
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ..data.images import SUFFIXES

Kind = Literal["folder", "list", "parquet"]


@dataclass(frozen=True)
class Source:
    """Images in a fixed order, which can be named without being read."""

    uri: str
    kind: Kind
    column: str | None
    """Of Parquet: holds the images' bytes or their paths."""
    files: list[str]
    """Images, relative to the folder or as the list has them; of Parquet the dataset's files."""
    rows: list[int]
    """Of Parquet: each file's rows."""
    digest: str
    """SHA-256 of what the storage says: names, sizes, times of change, rows; of a list its lines."""

    def __len__(self) -> int:
        return sum(self.rows) if self.kind == "parquet" else len(self.files)

    def part(self, first: int, stop: int) -> str:
        """Inputs `first` to `stop`, without the last, as JSON that `read_part` takes."""
        if self.kind != "parquet":
            inputs: list[Any] = self.files[first:stop]
        else:
            inputs, before = [], 0
            for file, rows in zip(self.files, self.rows, strict=True):
                low, high = max(first - before, 0), min(stop - before, rows)
                if low < high:
                    inputs.append([file, low, high])
                before += rows
        return json.dumps({"uri": self.uri, "kind": self.kind, "column": self.column, "inputs": inputs})


@dataclass(frozen=True)
class Input:
    """One image of a source."""

    name: str
    """Its path in the source; of a Parquet row without one, its place."""
    place: str
    """As `name`, but of a Parquet row "FILE/ROW", which no two rows share."""
    data: bytes | None
    """Its bytes, where the source itself holds them."""
    system: fs.FileSystem
    path: str
    """Where its bytes are otherwise."""

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: If they cannot be read; FileNotFoundError if there is no such file.
        """
        if self.data is not None:
            return self.data
        with self.system.open_input_file(self.path) as file:
            return file.read()


def open_source(uri: str, *, column: str | None = None) -> Source:
    """Name every image of a source.

    Args:
        uri: A folder (with all that is in it), a text file with a path or URI a line, or a Parquet file or folder of them; a local
            path, s3://, gs://, or another scheme of `pyarrow.fs.FileSystem.from_uri`.
        column: Of Parquet: the column of bytes or paths; None takes `image`, `bytes` or `path`, whichever comes first.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it holds no images, or a column is missing.
    """
    system, root = open_uri(uri)
    info = system.get_file_info(root)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(f"No file or folder '{uri}'")
    if info.type == fs.FileType.Directory:
        found = sorted(
            (
                i
                for i in system.get_file_info(fs.FileSelector(root, recursive=True))
                if i.type == fs.FileType.File and _shown(i, root)
            ),
            key=lambda i: i.path,
        )
        if tables := [i for i in found if i.extension == "parquet"]:
            return _parquet(uri, system, root, tables, column)
        images = [i for i in found if f".{i.extension.lower()}" in SUFFIXES]
        if not images:
            raise ValueError(f"No images and no Parquet files in '{uri}'")
        digest = _digest(f"{_relative(i, root)}\t{i.size}\t{i.mtime_ns}" for i in images)
        return Source(uri, "folder", None, [_relative(i, root) for i in images], [], digest)
    if info.extension == "parquet":
        return _parquet(uri, system, root, [info], column)
    if f".{info.extension.lower()}" in SUFFIXES:
        raise ValueError(f"'{uri}' is an image; give a folder, a list or Parquet here, or use pspnet-zoo predict")
    try:
        lines = [line for line in system.open_input_file(root).read().decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"'{uri}' is neither Parquet nor a text file with a path a line") from None
    if not lines:
        raise ValueError(f"'{uri}' lists no images")
    return Source(uri, "list", None, lines, [], _digest(lines))


def _shown(info: fs.FileInfo, root: str) -> bool:
    """Files that begin with a dot or a line are other programs' own, such as macOS's ._a.jpg and _SUCCESS."""
    return not any(part.startswith((".", "_")) for part in _relative(info, root).split("/"))


def _relative(info: fs.FileInfo, root: str) -> str:
    return info.path[len(root.rstrip("/")) + 1 :] if info.path != root else info.base_name


def _digest(lines: Any) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _parquet(uri: str, system: fs.FileSystem, root: str, files: list[fs.FileInfo], column: str | None) -> Source:
    rows, names = [], pa.schema([])
    for info in files:
        with pq.ParquetFile(info.path, filesystem=system) as file:
            rows.append(file.metadata.num_rows)
            names = file.schema_arrow
        column = column or next((c for c in ("image", "bytes", "path") if c in names.names), None)
        if column is None or column not in names.names:
            raise ValueError(f"'{info.path}' has the columns {', '.join(names.names)}; name the images' one by --column")
        if not any(test(_values(names.field(column).type)) for test in (pa.types.is_binary, pa.types.is_large_binary, _is_text)):
            raise ValueError(f"Column '{column}' of '{info.path}' is {names.field(column).type}; it must be bytes or paths")
    digest = _digest(f"{_relative(i, root)}\t{i.size}\t{i.mtime_ns}\t{n}\t{column}" for i, n in zip(files, rows, strict=True))
    return Source(uri, "parquet", column, [i.path for i in files], rows, digest)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _values(kind: pa.DataType) -> pa.DataType:
    """The bytes of Hugging Face's image columns, which are structs of bytes and path."""
    return kind.field("bytes").type if pa.types.is_struct(kind) and "bytes" in kind.names else kind


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """A file system, the same one for equal places, and the path in it, of a local path or a URI.

    Raises:
        ValueError: If pyarrow does not know the scheme.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _local(), Path(uri).absolute().as_posix()
    try:
        if scheme in ("s3", "gs", "gcs"):  # by hand, so that names may have '%', '#' and spaces
            path, _, query = rest.partition("?")
            return _bucket(f"{scheme}://{path.partition('/')[0]}" + (f"?{query}" if query else "")), path.rstrip("/")
        return fs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid as error:
        raise ValueError(f"'{uri}' cannot be opened: {error}") from None


@lru_cache(maxsize=1)
def _local() -> fs.FileSystem:
    return fs.LocalFileSystem()


@lru_cache(maxsize=32)
def _bucket(uri: str) -> fs.FileSystem:
    return fs.FileSystem.from_uri(uri)[0]


def read_part(part: str) -> Iterator[Input]:
    """The inputs that `Source.part` named; bytes in Parquet are read a few rows at a time.

    Raises:
        OSError: If a Parquet file cannot be read.
    """
    values = json.loads(part)
    system, root = open_uri(values["uri"])
    is_file = values["kind"] == "list" or (values["kind"] == "parquet" and root.endswith(".parquet"))
    folder = root.rpartition("/")[0] if is_file else root
    for entry in values["inputs"]:
        if values["kind"] == "parquet":
            yield from _rows(system, folder, values["column"], *entry)
        else:
            yield _named(system, folder, entry)


def _rows(system: fs.FileSystem, folder: str, column: str, path: str, first: int, stop: int) -> Iterator[Input]:
    """Rows `first` to `stop` of a Parquet file; row groups without any of them are not read."""
    with pq.ParquetFile(path, filesystem=system) as file:
        columns = [column, *({"path"} & set(file.schema_arrow.names) - {column})]
        row = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row + rows <= first or row >= stop:
                row += rows
                continue
            for batch in file.iter_batches(16, row_groups=[group], columns=columns):
                low, high = max(first - row, 0), min(stop - row, len(batch))
                for at, values in enumerate(batch.slice(low, max(high - low, 0)).to_pylist(), start=row + low):
                    yield _cell(system, folder, values[column], values.get("path"), f"{path[len(folder) + 1 :]}/{at}")
                row += len(batch)


def _cell(system: fs.FileSystem, folder: str, value: Any, path: str | None, place: str) -> Input:
    if isinstance(value, dict):  # Hugging Face's images
        value, path = value["bytes"], path or value.get("path")
    if isinstance(value, str):
        return replace(_named(system, folder, value), place=place)
    return Input(path or place, place, value or b"", system, "")


def _named(system: fs.FileSystem, folder: str, name: str) -> Input:
    """An image by its path below a folder, its absolute path on the same system, or its URI."""
    if "://" in name:
        return Input(name, name, None, *open_uri(name))
    is_absolute = name.startswith("/") or name[1:2] == ":"
    return Input(name, name, None, system, name if is_absolute else f"{folder}/{name}")
