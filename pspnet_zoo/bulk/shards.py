"""The results of bulk work: Parquet shards, each whole or absent, and a manifest of the source and model that they belong to.

Shard k holds the inputs k * rows to (k + 1) * rows of the source, in its order, so that the existing shards tell what is done.

Needs the extra `bulk` (pyarrow).
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pyarrow import fs

from ..meta import Labels
from ..results.rows import ResultRow, arrow_schema, arrow_table
from ..storage.files import write_atomically
from .sources import MANIFEST, open_uri

COLUMNS = ("path", "height", "width", "mask", "class_fractions", "error", "input_sha256", "model", "model_sha256")
"""Columns of a shard."""

PATIENCE = 30
"""Seconds that a run waits for the end of another one in its destination, such as one that is being stopped."""

_ABANDONED = timedelta(days=1)
"""On storage without locks, an unfinished shard older than this is taken for abandoned and removed."""


@dataclass(frozen=True)
class Manifest:
    """The contents of a destination, present and to come."""

    source: str
    source_digest: str
    """See `BulkSource.digest`."""
    images: int
    rows_per_shard: int
    model: str
    """The model's name as the user gave it."""
    model_sha256: str
    """See `model_digest`."""
    as_files: bool
    """Masks are PNG files below masks/ instead of bytes in the shards."""
    format: int = 2
    tiling: str | None = None
    """Side and overlap of the tiles and how they are merged; None for whole images."""

    @property
    def shards(self) -> int:
        """Number of shards of the whole source."""
        return -(-self.images // self.rows_per_shard)


class Destination:
    """A folder of shards on any file system.

    Raises:
        ValueError: If pyarrow does not know the scheme.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._system, self._root = open_uri(uri)
        self._is_local = isinstance(self._system, fs.LocalFileSystem)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the destination; object storage has no locks, so nothing keeps them out there.

        Raises:
            OSError: If another run still writes to it after `PATIENCE`, or it cannot be written.
        """
        self._system.create_dir(self._root, recursive=True)
        try:
            with FileLock(f"{self._root}/_lock", timeout=PATIENCE) if self._is_local else nullcontext():
                yield
        except Timeout:
            raise OSError(f"Another run writes to '{self.uri}'; wait for its end, or choose another destination") from None

    def begin(self, manifest: Manifest) -> list[int]:
        """Write the manifest, or compare it with the one that is there, and return the numbers of the missing shards.

        Unfinished shards of runs that were killed are removed; call it while the destination is `locked`.

        Raises:
            ValueError: If results of another model or source are there, or the manifest is damaged.
            OSError: If it cannot be written.
        """
        self._system.create_dir(self._root, recursive=True)
        path = f"{self._root}/{MANIFEST}"
        if self._system.get_file_info(path).type == fs.FileType.File:
            with self._system.open_input_file(path) as file:
                self._compare(file.read(), asdict(manifest))
        else:
            self._write(MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
        files = self._system.get_file_info(fs.FileSelector(self._root))
        for info in files:
            if info.base_name.startswith(".part-") and (self._is_local or _is_abandoned(info)):
                self._system.delete_file(info.path)
        names = [info.base_name for info in files]
        done = {int(match[1]) for name in names if (match := re.fullmatch(r"part-(\d+)\.parquet", name))}
        return [shard for shard in range(manifest.shards) if shard not in done]

    def _compare(self, text: bytes, new: dict[str, Any]) -> None:
        try:
            old = json.loads(text)
        except (ValueError, RecursionError):
            old = None
        if not isinstance(old, dict):
            raise ValueError(f"'{self.uri}/{MANIFEST}' is damaged; choose another destination, or remove this one")
        # the digests decide; a model or source may have moved
        different = [
            "the images have changed"
            if key == "source_digest"
            else "it is another model"
            if key == "model_sha256"
            else f"{key} was {old.get(key)}, now {new[key]}"
            for key in ("source_digest", "images", "model_sha256", "rows_per_shard", "as_files", "format", "tiling")
            if old.get(key) != new[key]
        ]
        if different:
            raise ValueError(
                f"'{self.uri}' holds results of {old.get('model')} for {old.get('source')}, and {', '.join(different)}; "
                "choose another destination, or remove this one"
            )

    def has(self, shard: int) -> bool:
        """Whether a shard is there."""
        return self._system.get_file_info(f"{self._root}/{_name(shard)}").type == fs.FileType.File

    def write(self, shard: int, rows: Sequence[ResultRow], manifest: Manifest, labels: Labels) -> None:
        """Write a shard.

        Raises:
            OSError: If it cannot be written.
        """
        schema = arrow_schema(COLUMNS, labels.names, mask_is_path=manifest.as_files)
        schema = schema.with_metadata({"labels": json.dumps(asdict(labels))})
        buffer = io.BytesIO()
        pq.write_table(arrow_table(rows, COLUMNS, schema), buffer, compression="zstd")
        self._write(_name(shard), buffer.getvalue())

    def write_mask(self, place: str, png: bytes) -> str:
        """Write a mask as a file below the destination, and return its path there; see `mask_name`."""
        name = mask_name(place)
        self._write(name, png)
        return name

    def _write(self, name: str, data: bytes) -> None:
        """Replace a file whole or not at all."""
        if self._is_local:
            write_atomically(Path(self._root) / name, data)
            return
        folder, _, base = f"{self._root}/{name}".rpartition("/")
        if "/" in name:
            self._system.create_dir(folder, recursive=True)
        temporary = f"{folder}/.{base}.{uuid4().hex}"
        with self._system.open_output_stream(temporary) as file:
            file.write(data)
        self._system.move(temporary, f"{folder}/{base}")


def _name(shard: int) -> str:
    return f"part-{shard:06}.parquet"


def _is_abandoned(info: fs.FileInfo) -> bool:
    return info.mtime is not None and datetime.now(timezone.utc) - info.mtime > _ABANDONED


def mask_name(path: str) -> str:
    """The place of an image's mask below the destination, masks/PATH.png, without parts that would lead out of it."""
    parts = [part for part in PurePosixPath(path.partition("://")[2] or path).parts if part not in ("/", "..", ".")]
    name = "masks/" + "/".join(part.replace("\\", "_").replace(":", "_") for part in parts) + ".png"
    # bytes that are not Unicode, as Python has them in names, are written as in URLs
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)
