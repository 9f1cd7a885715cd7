"""The error of weights, and the words for errors of the system; they cost nothing to import."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager


class WeightsError(Exception):
    """Weights that cannot be loaded or saved. The message names the file, the reason and the next step."""


_OF_FILES = {
    errno.EEXIST: "'{}' is a file, and a folder is needed there; give another name",
    errno.ENOTDIR: "'{}' leads through a file as if it were a folder; give another path",
    errno.EISDIR: "'{}' is a folder, and a file is needed; give the name of a file",
    errno.ENOENT: "No file or folder '{}'",
    errno.EACCES: "'{}' may not be read or written by this user; change its permissions, or give another path",
    errno.EPERM: "'{}' may not be changed by this user; change its permissions, or give another path",
    errno.EROFS: "'{}' is on a read-only disk; give a path on another",
    errno.ENOSPC: "No space left on device: '{}'. Free some space, or write to another disk",
    errno.EDQUOT: "No space left in your quota: '{}'. Free some space, or write to another disk",
    errno.EFBIG: "'{}' would be larger than files may be here; write to another disk, or raise the limit (ulimit -f)",
    errno.ENAMETOOLONG: "'{}' is too long for a name here; give a shorter one",
    errno.ELOOP: "'{}' is a loop of links; remove it",
}


def message_of(error: Exception) -> str:
    """The message of an error; one of the system's about a file becomes a sentence with the next step."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    if error.filename is None:
        plain = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
        return f"{plain}. Free some space, or write to another disk" if error.errno == errno.ENOSPC else plain
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename2 or error.filename)
    return _OF_FILES[error.errno].format(name) if error.errno in _OF_FILES else f"'{name}': {error.strerror}"


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Name the file in errors of writing to it, as of a full disk: those of an open file have no name."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
