"""Images named by files, folders and patterns."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .images import SUFFIXES
from .rasters import SUFFIXES as RASTERS


@dataclass(frozen=True)
class Found:
    """A file and its place below the argument that named it."""

    path: Path
    name: Path
    """Below the named folder, or below the part of a pattern without wildcards; the name alone of a file that was named itself."""


def find_files(
    argument: Path,
    *,
    recursive: bool = False,
    suffixes: Iterable[str] = SUFFIXES,
    on_error: Callable[[OSError], object] | None = None,
) -> list[Found]:
    """List the files that an argument of the command line names, sorted.

    Links that lead nowhere, pipes and devices are listed like files, so that reading them fails under their names.

    Args:
        argument: A file, whatever its name; a folder, whose files with one of `suffixes` are taken, except those whose name
            begins with a dot, such as macOS's ._a.jpg; or a pattern with `*`, `?`, `[...]`, and `**` for folders at any depth.
        recursive: Also take the files of the folders below.
        suffixes: Name endings of files in folders, lower case. Of a folder without an image, .dcm, .npy and .npz files are taken.
        on_error: Called with the error of each folder that cannot be read; None raises the first.

    Raises:
        ValueError: If a folder or pattern has none.
        OSError: If a folder cannot be read, and `on_error` is None or the folder is the argument itself.
    """
    if argument.is_dir():
        os.scandir(argument).close()
        found = [Found(path, path.relative_to(argument)) for path in _walk(argument, recursive, on_error or _raise)]
        kind = "images" if recursive or not any(p.is_dir() for p in argument.iterdir()) else "images (below it: --recursive)"
    elif not argument.exists() and glob.has_magic(str(argument)):
        fixed = next(parent for parent in argument.parents if not glob.has_magic(str(parent)))
        paths = sorted(Path(path) for path in glob.iglob(str(argument), recursive=True))
        found = [Found(path, path.relative_to(fixed)) for path in paths if not path.is_dir()]
        _check_folders(argument, on_error or _raise)
        kind = "images"
    else:
        return [Found(argument, Path(argument.name))]
    known = frozenset(suffixes)
    if known == SUFFIXES and not any(f.path.suffix.lower() in SUFFIXES for f in found):
        known = RASTERS
    found = [f for f in found if f.path.suffix.lower() in known]
    if not found:
        raise ValueError(f"No {kind} in '{argument}'")
    return found


def _walk(folder: Path, recursive: bool, on_error: Callable[[OSError], object]) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _check_folders(pattern: Path, on_error: Callable[[OSError], object]) -> None:
    """Report the folders that a pattern leads through and that cannot be read; `glob` passes over them in silence."""
    for parent in {pattern.parent, *(p for p in pattern.parents if glob.has_magic(str(p)))}:
        for folder in sorted(glob.iglob(str(parent), recursive=True)):
            if os.path.isdir(folder):
                try:
                    os.scandir(folder).close()
                except OSError as error:
                    on_error(error)


def _raise(error: OSError) -> None:
    raise error
