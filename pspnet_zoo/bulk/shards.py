"""Where the results of many images go: Parquet shards, each there whole or not at all, and a manifest that says of what.

Shard k holds the inputs k * rows to (k + 1) * rows of the source, in its order, so that the shards that exist say what is done.

Needs the extra `bulk` (pyarrow).
"""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ..meta import Labels
from .sources import open_uri

MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a destination holds, or will."""

    source: str
    source_digest: str
    """See `Source.digest`."""
    images: int
    rows_per_shard: int
    model: str
    """Its name as it was given."""
    digest: str
    """SHA-256 of the model's files."""
    as_files: bool
    """Masks are PNG files below masks/ instead of bytes in the shards."""
    format: int = 1

    @property
    def shards(self) -> int:
        """How many there will be."""
        return -(-self.images // self.rows_per_shard)


@dataclass(frozen=True)
class Row:
    """The result of one image."""

    path: str
    """The image's name in the source."""
    mask_file: str | None
    """Where its mask is below the destination, if masks are files."""
    height: int | None
    width: int | None
    mask: bytes | None
    """An indexed PNG of the class ids, with the classes' colours."""
    class_fractions: dict[str, float] | None
    """Fraction of the image by class name."""
    error: str | None
    """Why there is none; None if there is."""


class Destination:
    """A folder of shards on any file system.

    Raises:
        ValueError: If pyarrow does not know the scheme.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._system, self._root = open_uri(uri)

    def begin(self, manifest: Manifest) -> list[int]:
        """Write the manifest, or compare it with the one that is there; the numbers of the shards that are missing.

        Raises:
            ValueError: If something of another model or source is there.
            OSError: If it cannot be written.
        """
        self._system.create_dir(self._root, recursive=True)
        path = f"{self._root}/{MANIFEST}"
        if self._system.get_file_info(path).type == fs.FileType.File:
            with self._system.open_input_file(path) as file:
                self._compare(json.loads(file.read()), asdict(manifest))
        else:
            self._write(MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
        names = [info.base_name for info in self._system.get_file_info(fs.FileSelector(self._root))]
        for name in names:
            if name.startswith(".part-"):  # of a run that was killed
                self._system.delete_file(f"{self._root}/{name}")
        done = {int(match[1]) for name in names if (match := re.fullmatch(r"part-(\d+)\.parquet", name))}
        return [shard for shard in range(manifest.shards) if shard not in done]

    def _compare(self, old: dict[str, object], new: dict[str, object]) -> None:
        # the digests decide; a model or source may have moved
        different = [
            "the images have changed"
            if key == "source_digest"
            else "it is another model"
            if key == "digest"
            else f"{key} was {old.get(key)}, now {new[key]}"
            for key in ("source_digest", "images", "digest", "rows_per_shard", "as_files", "format")
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

    def write(self, shard: int, rows: Sequence[Row], manifest: Manifest, labels: Labels) -> None:
        """Write a shard; with `as_files` the masks before it.

        Raises:
            OSError: If it cannot be written.
        """
        if manifest.as_files:
            for row in rows:
                if row.mask is not None and row.mask_file is not None:
                    self._write(row.mask_file, row.mask)
        buffer = io.BytesIO()
        pq.write_table(_table(rows, manifest, labels), buffer, compression="zstd")
        self._write(_name(shard), buffer.getvalue())

    def _write(self, name: str, data: bytes) -> None:
        """Replace a file whole or not at all."""
        folder, _, base = f"{self._root}/{name}".rpartition("/")
        if "/" in name:
            self._system.create_dir(folder, recursive=True)
        temporary = f"{folder}/.{base}.{uuid4().hex}"
        with self._system.open_output_stream(temporary) as file:
            file.write(data)
        self._system.move(temporary, f"{folder}/{base}")


def _name(shard: int) -> str:
    return f"part-{shard:06}.parquet"


def mask_name(path: str) -> str:
    """Where an image's mask goes below the destination, without what would lead out of it: masks/PATH.png."""
    parts = [part for part in PurePosixPath(path.partition("://")[2] or path).parts if part not in ("/", "..", ".")]
    return "masks/" + "/".join(part.replace("\\", "_").replace(":", "_") for part in parts) + ".png"


def _table(rows: Sequence[Row], manifest: Manifest, labels: Labels) -> pa.Table:
    class_fractions = pa.struct([(name, pa.float64()) for name in labels.names])
    columns = {
        "path": pa.array([row.path for row in rows], pa.string()),
        "height": pa.array([row.height for row in rows], pa.int32()),
        "width": pa.array([row.width for row in rows], pa.int32()),
        "mask": pa.array(
            [row.mask_file if manifest.as_files else row.mask for row in rows], pa.string() if manifest.as_files else pa.binary()
        ),
        "class_fractions": pa.array([row.class_fractions for row in rows], class_fractions),
        "error": pa.array([row.error for row in rows], pa.string()),
        "model": pa.array([manifest.model] * len(rows), pa.string()),
        "digest": pa.array([manifest.digest] * len(rows), pa.string()),
    }
    return pa.table(columns, metadata={"labels": json.dumps(asdict(labels))})
