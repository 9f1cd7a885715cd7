"""Images named by files, folders and patterns."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .images import SUFFIXES


@dataclass(frozen=True)
class Found:
    """A file and where it lay."""

    path: Path
    name: Path
    """Below the folder that was named, or below the part of a pattern without wildcards; of a file that was named, its name."""


def find_files(
    argument: Path, *, recursive: bool = False, suffixes: Iterable[str] = SUFFIXES, without: Path | None = None
) -> list[Found]:
    """The files that an argument of the command line means, sorted.

    Args:
        argument: A file, whatever its name; a folder, of whose files those with one of `suffixes` are taken, and none whose name
            begins with a dot, such as macOS's ._a.jpg; or a pattern with `*`, `?`, `[...]`, and `**` for folders at any depth.
        recursive: Look in the folders below too.
        suffixes: Of files in folders, lower case.
        without: A folder whose files are left out, such as the one for results.

    Raises:
        ValueError: If a folder or pattern has none.
        OSError: If a folder cannot be read.
    """
    if argument.is_dir():
        found = [Found(path, path.relative_to(argument)) for path in _walk(argument, recursive)]
        kind = "images" if recursive or not any(p.is_dir() for p in argument.iterdir()) else "images (below it: --recursive)"
    elif not argument.exists() and glob.has_magic(str(argument)):
        fixed = next(parent for parent in argument.parents if not glob.has_magic(str(parent)))
        paths = sorted(Path(path) for path in glob.iglob(str(argument), recursive=True))
        found = [Found(path, path.relative_to(fixed)) for path in paths if path.is_file()]
        kind = "images"
    else:
        return [Found(argument, Path(argument.name))]
    known, left_out = frozenset(suffixes), without.resolve() if without else None
    found = [f for f in found if f.path.suffix.lower() in known and not (left_out and left_out in f.path.resolve().parents)]
    if not found:
        raise ValueError(f"No {kind} in '{argument}'")
    return found


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))
