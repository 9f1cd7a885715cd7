"""Converted checkpoints of other projects, on this machine's disk: fetched, checked and converted once.

    PSPNET_ZOO_CACHE/NAME-FINGERPRINT/              model.safetensors and config.json
    PSPNET_ZOO_CACHE/downloads/NAME-FINGERPRINT/    the upstream's files on their way in, or put there by hand

One process at a time works on a checkpoint, behind a file lock that a killed process releases. A folder appears whole, by one
rename.
"""

import hashlib
import logging
import lzma
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from ..storage.download import MAX_BYTES, DownloadError, Progress, download
from ..storage.files import (
    WEIGHTS_FILE,
    WeightsError,
    cache_folder,
    check_pair,
    is_web_page,
    matches,
    read_config,
    read_safetensors,
    update_config,
)
from ..storage.hub import remember_digest, verified_sha256
from ..zoo.entries import Checkpoint, Upstream
from .convert import claims, convert_files

_log = logging.getLogger(__name__)


def cached(entry: Checkpoint, *, progress: Progress | None = None) -> Path:
    """The folder of an entry's converted weights, for `from_pretrained`; the first call fetches and converts them.

    A damaged folder is fetched again. Into a whole one is written what the entry says now about its source, licence and numbers.

    Args:
        entry: Of another project's checkpoint.
        progress: Told of bytes as they come; None shows a bar on a terminal.

    Raises:
        WeightsError: If they cannot be had; the message says what to fetch, and where to put it.
        OSError: If the cache cannot be written.
    """
    if entry.upstream is None:
        raise ValueError(f"'{entry.name}' is not a checkpoint of another project")
    root, folder = cache_folder(), _folder(entry)
    downloads = root / "downloads" / folder.name
    if _is_whole(folder, compare=True):
        shutil.rmtree(downloads, ignore_errors=True)  # of a process that was killed at the very end
        _update_claims(folder, entry, entry.upstream)
        return folder
    downloads.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads.with_name(downloads.name + ".lock")):
        if _is_whole(folder, compare=True):  # another process was faster
            return folder
        downloads.mkdir(exist_ok=True)
        new = root / f".{folder.name}.new"
        for leftover in (folder, new):  # of a damaged disk, or a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        files = [_fetch(entry, entry.upstream, index, downloads, progress) for index in range(len(entry.upstream.files))]
        try:
            convert_files(files, entry, entry.upstream).save_pretrained(new)
        except WeightsError:
            for file in files:
                file.unlink()  # so that the next call starts afresh
            raise
        os.replace(new, folder)
        shutil.rmtree(downloads, ignore_errors=True)
    _log.info("'%s' is now in '%s'", entry.name, folder)
    return folder


def is_cached(entry: Checkpoint) -> bool:
    """Whether `cached` would return without a request, as far as that is known without reading all of the weights."""
    return _is_whole(_folder(entry))


def _folder(entry: Checkpoint) -> Path:
    # another policy for the same name must not find the weights of the old one; texts about them need no other weights
    upstream = entry.upstream and replace(entry.upstream, id="", page="", same_weights_as=None)
    fingerprint = hashlib.sha256(repr((upstream, entry.labels)).encode()).hexdigest()[:8]
    return cache_folder() / f"{entry.name}-{fingerprint}"


def _is_whole(folder: Path, *, compare: bool = False) -> bool:
    """Whether the config can be read and no tensor is cut short; with `compare`, whether the weights have their digest too."""
    if not folder.is_dir():
        return False
    try:
        config = read_config(folder)
        read_safetensors(folder / WEIGHTS_FILE)
        if compare and (digest := config.get("weights_sha256")) is not None:
            known = verified_sha256(folder / WEIGHTS_FILE)
            check_pair(config, folder / WEIGHTS_FILE, known)
            if known is None:  # hashed once, and again if it has changed
                remember_digest(folder / WEIGHTS_FILE, f"sha256:{digest}")
    except WeightsError as error:
        _log.warning("%s. It is fetched again", error)
        return False
    return True


def _update_claims(folder: Path, entry: Checkpoint, source: Upstream) -> None:
    """Write what the entry says about its weights into a folder that was made when it said something else."""
    old = read_config(folder)["provenance"] or {}
    new = {**old, **claims(entry, source)}
    if new == old:
        return
    try:
        update_config(folder, provenance=new)
    except OSError as error:  # of a cache that several people read
        _log.warning("'%s' states what was known about '%s' earlier: it cannot be written (%s)", folder, entry.name, error)


def _fetch(entry: Checkpoint, source: Upstream, index: int, downloads: Path, progress: Progress | None) -> Path:
    """The upstream's file at `index`, compared with its published digest; a damaged one is fetched once more."""
    path = downloads / source.files[index]
    what = ""
    for attempt in ("first", "second"):
        if not path.exists():
            _download(entry, source, index, path, progress)
        if source.hash is None or matches(path, source.hash):
            return path
        with path.open("rb") as file:
            what = "a web page" if is_web_page(file.read(64)) else "another or a damaged file"
        path.unlink()
        _log.warning("The %s '%s' was %s: its digest is not %s", attempt, path.name, what, source.hash)
    raise WeightsError(
        f"The server gives {what} in place of '{path.name}' of '{entry.name}': its digest is not {source.hash}. "
        f"Nothing was opened. {_by_hand(entry, source, path)}"
    )


def _download(entry: Checkpoint, source: Upstream, index: int, path: Path, progress: Progress | None) -> None:
    if source.same_weights_as:
        raise WeightsError(f"Files of '{entry.name}' are not supported; '{source.same_weights_as}' is the same in PyTorch")
    if not source.urls:
        raise WeightsError(
            f"'{entry.name}' has no address that a program can fetch. Fetch '{path.name}' from {source.page} with a browser, "
            f"then run: pspnet-zoo convert {path.name} --like {entry.name} -o FOLDER. Or put it at '{path}'"
        )
    url = source.urls[index]
    target = path.with_name(path.name + ".zip") if url.endswith(".zip") else path
    _log.info("Fetching '%s' from %s", entry.name, url)
    try:
        with nullcontext(progress) if progress else _progress_bar(path.name) as told:
            download(url, target, has_hash=source.hash is not None and target == path, progress=told)
    except DownloadError as error:
        raise WeightsError(f"{error}. {_by_hand(entry, source, path)}") from error
    if target != path:
        _unpack(target, path)


def _unpack(archive: Path, path: Path) -> None:
    """Take the one file `path.name` out of an archive, and remove the archive."""
    whole = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(archive) as file, file.open(path.name) as source, whole.open("wb") as target:
            if file.getinfo(path.name).file_size > MAX_BYTES:  # no more than that is read, whatever comes
                raise zipfile.BadZipFile(f"unpacked it has more than {MAX_BYTES / 1e9:g} GB")
            shutil.copyfileobj(source, target)
        os.replace(whole, path)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(f"'{archive.name}' is not an archive with '{path.name}' in it: {error}. Try again") from error
    finally:
        whole.unlink(missing_ok=True)  # of a damaged archive, or a full disk
        archive.unlink()


def _by_hand(entry: Checkpoint, source: Upstream, path: Path) -> str:
    where = source.urls[source.files.index(path.name)] if source.urls else source.page
    return (
        f"Without the network: fetch {where} elsewhere and put '{path.name}' at '{path}', "
        f"or run: pspnet-zoo convert {path.name} --like {entry.name} -o FOLDER"
    )


@contextmanager
def _progress_bar(name: str) -> Iterator[Progress | None]:
    """A bar on a terminal's standard error; nothing elsewhere, or without the package rich."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar
    except ModuleNotFoundError:  # torch.hub asks for fewer packages, see hubconf.py
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda have, total: bar.update(task, completed=have, total=total)
