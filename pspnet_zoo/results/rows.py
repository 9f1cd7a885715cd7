"""One row a result: what reports and the shards of bulk work say of an image, in the same columns.

Docs: docs/how-to/segment-folders.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..storage.errors import message_of

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("path", "height", "width", "class_fractions", "seconds", "error", "input_sha256", "model", "model_sha256")
"""Columns of a report on images."""
VIDEO_COLUMNS = ("path", "frame", "time", *IMAGE_COLUMNS[1:])
"""Columns of a report that has frames of videos too."""


@dataclass(frozen=True)
class ResultRow:
    """The result of one image or frame."""

    path: str
    """The image's or video's path as the source names it."""
    height: int | None = None
    """In pixels; None if it was not segmented."""
    width: int | None = None
    class_fractions: Mapping[str, float] | None = None
    """Fraction of the pixels by class name, 0 to 1; together 1."""
    seconds: float | None = None
    """Time of reading and of the network."""
    error: str | None = None
    """The reason why it was not segmented; None if it was."""
    input_sha256: str | None = None
    """SHA-256 of the input file."""
    frame: int | None = None
    """Number of a video's frame, from 0."""
    time: float | None = None
    """Time at which the frame is shown, in seconds from the video's beginning."""
    mask: bytes | str | None = None
    """The mask as an indexed PNG of class ids, or the path of that file; only bulk work keeps it here."""
    model: str | None = None
    """The model's name as the user gave it."""
    model_sha256: str | None = None
    """See `model_digest`."""


def named_error(path: object, error: Exception) -> str:
    """The message of an error, with the path before it where the message does not have it."""
    message = "needs more memory than there is" if isinstance(error, MemoryError) else message_of(error) or type(error).__name__
    return message if str(path) in message else f"'{path}': {message}"


def arrow_table(rows: Iterable[ResultRow], columns: Sequence[str], schema: "pa.Schema") -> "pa.Table":
    """Rows as an Arrow table; in text that is not Unicode, as file names may be, each such byte becomes a backslash escape."""
    import pyarrow as pa

    def value(row: ResultRow, column: str) -> Any:
        value = getattr(row, column)
        return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value

    return pa.Table.from_pylist([{column: value(row, column) for column in columns} for row in rows], schema)


def arrow_schema(columns: Sequence[str], classes: Sequence[str], *, mask_is_path: bool = False) -> "pa.Schema":
    """The types of columns; `class_fractions` is a struct with a field a class."""
    import pyarrow as pa

    types = {
        "height": pa.int32(),
        "width": pa.int32(),
        "class_fractions": pa.struct([(name, pa.float64()) for name in classes]),
        "seconds": pa.float64(),
        "frame": pa.int64(),
        "time": pa.float64(),
        "mask": pa.string() if mask_is_path else pa.binary(),
    }
    return pa.schema([(column, types.get(column, pa.string())) for column in columns])
