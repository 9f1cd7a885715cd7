"""Images to segment in bulk: a folder, a list or a Parquet dataset, on any file system of pyarrow (local, s3://, gs://).

Needs the extra `bulk` (pyarrow).
"""

import codecs
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ..data.images import SUFFIXES
from ..data.rasters import MAX_BYTES
from ..results.stamp import LONGEST_HEAD, find_png_stamp, find_tiff_stamp, is_result, named_as_result
from ..streams.pipeline import in_order

Kind = Literal["folder", "list", "parquet"]

MANIFEST = "_manifest.json"
"""Name of the file that makes a folder one of bulk results."""


_OPENERS = 16
"""Threads that look into files named as results are, each a request where the storage is elsewhere."""


class DamagedFileError(OSError):
    """A Parquet file of the source that cannot be read, or only in part.

    Args:
        path: The file.
        reason: The words of pyarrow.
        opens: Whether it was opened, as `open_source` opens every file; one that is not any more tells of the storage.
    """

    def __init__(self, path: str, reason: str, opens: bool) -> None:
        super().__init__(f"'{path}' cannot be read as Parquet: {reason}")
        self.path, self.opens = path, opens


@dataclass(frozen=True)
class BulkSource:
    """Images in a fixed order, which can be named without being read."""

    uri: str
    kind: Kind
    column: str | None
    """Column of a Parquet dataset that holds the images' bytes or their paths."""
    files: list[str]
    """Images, relative to the folder or as the list has them; the files of a Parquet dataset."""
    rows: list[int]
    """Number of rows of each file of a Parquet dataset."""
    digest: str
    """SHA-256 of names, sizes, times of change and row counts; of a list the digest of its lines."""
    left_out: int = 0
    """Number of files in the folder that are results of this package."""
    errors: tuple[OSError, ...] = ()
    """Errors of folders that cannot be read."""

    def __len__(self) -> int:
        return sum(self.rows) if self.kind == "parquet" else len(self.files)

    def __str__(self) -> str:
        what = f"Parquet, column '{self.column}'" if self.kind == "parquet" else f"a {self.kind}"
        left_out = f", without {self.left_out:,} files of earlier results" if self.left_out else ""
        return f"{len(self):,} images in '{self.uri}' ({what}{left_out})"

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
    """The same; for a Parquet row "FILE/ROW", which no two rows have in common."""
    data: bytes | None
    """Its bytes, where the source itself holds them."""
    system: fs.FileSystem
    path: str
    """The file of its bytes otherwise."""
    problem: str = "The row has neither bytes nor a path"
    """Why there are neither bytes nor a file."""

    def read(self) -> bytes:
        """Read its bytes.

        Raises:
            OSError: If they cannot be read; FileNotFoundError if there is no such file.
            ValueError: If the source has neither bytes nor a path, or the path is a URI that pyarrow does not know.
        """
        if self.data is not None:
            return self.data
        if not self.path:
            raise ValueError(self.problem)
        if isinstance(self.system, fs.LocalFileSystem):  # pyarrow takes no names that are not Unicode, and waits for pipes
            path = Path(self.path)
            if path.exists() and not path.is_file():
                raise OSError(f"'{path}' is a folder, a pipe or a device, not a file")
            self._check_size(path.stat().st_size)
            return path.read_bytes()
        with self.system.open_input_file(self.path) as file:
            self._check_size(file.size())
            return file.read()

    def _check_size(self, size: int) -> None:
        if size > MAX_BYTES:
            raise OSError(f"The file has {size:,} bytes, and at most {MAX_BYTES:,} are read at once; segment it by predict --tile")


@dataclass(frozen=True)
class _File:
    path: str
    """The path for the file system."""
    name: str
    """Relative to the folder."""
    size: int
    mtime_ns: int

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1].lower()


def open_source(uri: str, *, column: str | None = None, kind: Kind | None = None, without: str | None = None) -> BulkSource:
    """Name every image of a source.

    Folders of bulk results, `without`, and the masks and overlays of `predict` inside a folder are left out.

    Args:
        uri: A folder (with everything below it), a text file with a path or URI a line, or a Parquet file or folder of them; a
            local path, s3://, gs://, or another scheme of `pyarrow.fs.FileSystem.from_uri`.
        column: Column of bytes or paths of a Parquet dataset; None takes `image`, `bytes` or `path`, whichever comes first.
        kind: Kind of the source; None tells by the files. A folder with images and Parquet files needs it.
        without: A folder inside the source whose files are left out: the destination.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it holds no images, a column is missing, or its kind is not clear.
    """
    system, root = open_uri(uri)
    info = system.get_file_info(root)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(f"No file or folder '{uri}'")
    if info.type == fs.FileType.Directory:
        if kind == "list":
            raise ValueError(f"'{uri}' is a folder, and no list; give the text file")
        return _folder(uri, system, root, column, kind, without)
    suffix = f".{info.extension.lower()}"
    if kind == "parquet" or (kind is None and suffix == ".parquet"):
        return _parquet(uri, system, [_File(root, info.base_name, info.size, info.mtime_ns)], column)
    if kind == "folder" or (kind is None and suffix in SUFFIXES):
        raise ValueError(f"'{uri}' is an image; give a folder, a list or Parquet here, or use pspnet-zoo predict")
    with system.open_input_file(root) as file:
        text = file.read()
    if b"\0" in text:
        raise ValueError(f"'{uri}' is neither Parquet nor a text file with a path a line")
    lines = [line for line in text.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"'{uri}' lists no images")
    return BulkSource(uri, "list", None, lines, [], _digest(lines))


def _folder(uri: str, system: fs.FileSystem, root: str, column: str | None, kind: Kind | None, without: str | None) -> BulkSource:
    errors: list[OSError] = []
    found = sorted(_files(system, root, errors), key=lambda f: f.path)
    results = {os.path.dirname(f.name) for f in found if os.path.basename(f.name) == MANIFEST}
    if "" in results:
        raise ValueError(f"'{uri}' holds results of pspnet-zoo bulk; give the folder of the images")
    if without is not None:
        other, folder = open_uri(without)
        if other.equals(system) and folder == root:
            raise ValueError(f"'{without}' is the source too; choose another destination")
        if other.equals(system) and folder.startswith(f"{root.rstrip('/')}/"):
            results.add(folder[len(root.rstrip("/")) + 1 :])
    kept = [f for f in found if not (results and any(str(parent) in results for parent in Path(f.name).parents))]
    tables = [f for f in kept if f.suffix == ".parquet" and not f.name.startswith("_") and "/_" not in f.name]
    images = [f for f in kept if f.suffix in SUFFIXES]
    if kind is None and images and tables and column is None:
        raise ValueError(
            f"'{uri}' holds {len(images):,} images and {len(tables):,} Parquet files; choose by --kind folder or --kind parquet"
        )
    left_out = sum(f.suffix in SUFFIXES or f.suffix == ".parquet" for f in found) - len(images) - len(tables)
    if kind == "parquet" or (kind is None and tables):
        if not tables:
            raise ValueError(f"No Parquet files in '{uri}'")
        return replace(_parquet(uri, system, tables, column), left_out=left_out, errors=tuple(errors))
    names = [f for f in images if named_as_result(os.path.basename(f.name))]
    ours = in_order(partial(_is_result, system), names, workers=_OPENERS)
    made = {f.name for f, is_ours in zip(names, ours, strict=True) if is_ours}
    sources = [f for f in images if f.name not in made]
    if not sources:
        raise ValueError(f"No images and no Parquet files in '{uri}'")
    left_out += len(images) - len(sources)
    digest = _digest(f"{f.name}\t{f.size}\t{f.mtime_ns}" for f in sources)
    return BulkSource(uri, "folder", None, [f.name for f in sources], [], digest, left_out, tuple(errors))


def _files(system: fs.FileSystem, root: str, errors: list[OSError]) -> Iterator[_File]:
    """Every file below a folder, except in hidden ones; names that begin with a dot are other programs' own, as macOS's ._a.jpg."""
    if isinstance(system, fs.LocalFileSystem):  # by hand: pyarrow stops at names that are not Unicode and at locked folders
        for folder, below, names in os.walk(root, onerror=errors.append, followlinks=True):
            below[:] = [n for n in below if not n.startswith(".") and not _is_above(os.path.join(folder, n), folder, root)]
            for path in (os.path.join(folder, name) for name in names if not name.startswith(".")):
                try:
                    info = os.stat(path)
                    size, mtime_ns = info.st_size, info.st_mtime_ns
                except OSError:  # a link to nothing: reading it will be the failure of that image
                    size, mtime_ns = 0, 0
                yield _File(path, os.path.relpath(path, root), size, mtime_ns)
        return
    for info in system.get_file_info(fs.FileSelector(root, recursive=True)):
        name = info.path[len(root.rstrip("/")) + 1 :]
        if info.type == fs.FileType.File and not any(part.startswith(".") for part in name.split("/")):
            yield _File(info.path, name, info.size, info.mtime_ns)


def _is_above(link: str, folder: str, root: str) -> bool:
    """Whether a link in a folder leads to one that holds it, or a link by which the walk from the root came to it."""
    if not os.path.islink(link):
        return False
    real = os.path.join(os.path.realpath(link), "")
    walked = [path for path in (Path(folder), *Path(folder).parents) if path.is_relative_to(root)]
    return any(os.path.join(os.path.realpath(path), "").startswith(real) for path in walked)


def _is_result(system: fs.FileSystem, file: _File) -> bool:
    if isinstance(system, fs.LocalFileSystem):
        return is_result(Path(file.path))
    try:
        with system.open_input_file(file.path) as opened:
            stamp = find_tiff_stamp(opened) if file.suffix == ".tif" else find_png_stamp(opened.read(LONGEST_HEAD))
        return stamp is not None
    except (OSError, ValueError):
        return False


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError)
"""Exceptions that pyarrow raises for damaged files."""


def _parquet(uri: str, system: fs.FileSystem, files: Sequence[_File], column: str | None) -> BulkSource:
    rows, names = [], pa.schema([])
    for info in files:
        try:
            with pq.ParquetFile(info.path, filesystem=system) as file:
                rows.append(file.metadata.num_rows)
                names = file.schema_arrow
        except _DAMAGE as error:
            raise ValueError(f"'{info.path}' cannot be read as Parquet: {str(error).strip()}") from None
        column = column or next((c for c in ("image", "bytes", "path") if c in names.names), None)
        if column is None or column not in names.names:
            raise ValueError(f"'{info.path}' has the columns {', '.join(names.names)}; name the one of the images by --column")
        for name in {column, *({"path"} & set(names.names))}:
            if names.names.count(name) > 1:
                raise ValueError(f"'{info.path}' has {names.names.count(name)} columns '{name}'; give each a name of its own")
        if not _is_readable(names.field(column).type):
            raise ValueError(f"Column '{column}' of '{info.path}' is {names.field(column).type}; it must be bytes or paths")
    digest = _digest(f"{f.name}\t{f.size}\t{f.mtime_ns}\t{n}\t{column}" for f, n in zip(files, rows, strict=True))
    return BulkSource(uri, "parquet", column, [f.path for f in files], rows, digest)


def _is_readable(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, paths, or Hugging Face's images, which are structs of both."""
    if pa.types.is_struct(kind):
        fields = [kind.field(name).type for name in kind.names if name in ("bytes", "path")]
        return bool(fields) and not any(pa.types.is_nested(field) or not _is_readable(field) for field in fields)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    return any(test(kind) for test in tests)


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """A file system, the same one for equal places, and the path in it, of a local path or a URI.

    Raises:
        ValueError: If pyarrow does not know the scheme.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _local(), Path(os.path.abspath(uri)).as_posix()
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
    """Yield the inputs that `BulkSource.part` named; bytes in Parquet are read a few rows at a time.

    Raises:
        DamagedFileError: If a Parquet file cannot be read.
        OSError: If the source itself is not there.
    """
    values = json.loads(part)
    system, root = open_uri(values["uri"])
    is_file = values["kind"] == "list" or system.get_file_info(root).type == fs.FileType.File
    folder = root.rpartition("/")[0] if is_file else root
    for entry in values["inputs"]:
        if values["kind"] == "parquet":
            yield from _rows(system, folder, values["column"], *entry)
        else:
            yield _named(system, folder, entry)


def _rows(system: fs.FileSystem, folder: str, column: str, path: str, first: int, stop: int) -> Iterator[Input]:
    """Rows `first` to `stop` of a Parquet file; only the row groups that hold them are read."""
    opens = False
    try:
        with pq.ParquetFile(path, filesystem=system) as file:
            opens = True
            for at, values in _read_rows(file, column, first, stop):
                yield _value(system, folder, values[column], values.get("path"), f"{path[len(folder) + 1 :]}/{at}")
    except _DAMAGE as error:
        raise DamagedFileError(path, str(error).strip(), opens) from None


def _read_rows(file: pq.ParquetFile, column: str, first: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
    columns = [column, *({"path"} & set(file.schema_arrow.names) - {column})]
    row = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row + rows <= first or row >= stop:
            row += rows
            continue
        for batch in file.iter_batches(16, row_groups=[group], columns=columns):
            low, high = max(first - row, 0), min(stop - row, len(batch))
            yield from enumerate(batch.slice(low, max(high - low, 0)).to_pylist(), start=row + low)
            row += len(batch)
            rows -= len(batch)
        if rows:
            raise ValueError("a row group has fewer rows than the file states")
    if row < stop:
        raise ValueError(f"it has {row:,} rows, fewer than it states")


def _value(system: fs.FileSystem, folder: str, value: Any, path: Any, place: str) -> Input:
    path = path if isinstance(path, str) else None  # a column of that name may hold anything
    if isinstance(value, dict):  # Hugging Face's images: the bytes, or the path of a file where there are none
        path = path or value.get("path")
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return replace(_named(system, folder, value), place=place)
    return Input(path or place, place, value or None, system, "")


def _named(system: fs.FileSystem, folder: str, name: str) -> Input:
    """An image by its path below a folder, its absolute path on the same system, or its URI."""
    if "://" in name:
        try:
            return Input(name, name, None, *open_uri(name))
        except (ValueError, OSError) as error:  # the failure of this image alone
            return Input(name, name, None, system, "", str(error))
    is_absolute = name.startswith("/") or (os.name == "nt" and name[1:2] == ":")
    return Input(name, name, None, system, name if is_absolute else f"{folder}/{name}")
