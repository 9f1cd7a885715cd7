"""Checkpoints on the Hugging Face Hub: fetched at one commit, compared with their digest, and only then opened.

huggingface_hub compares sizes only: a flipped byte passes it, and stays in its cache for ever. Here every file is hashed once after
its download and remembered by size, time and inode, in `PSPNET_ZOO_CACHE/verified`; one that changes is hashed again.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from .download import MAX_BYTES
from .files import CONFIG_FILE, WEIGHTS_FILE, WeightsError, cache_folder, file_digest, write_atomically
from .hub_errors import explained, is_passing, is_unanswered

NAMESPACE = "pspnet-zoo"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PAUSES = (1.0, 3.0)  # seconds before the second and the third attempt, on top of the client's own

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def namespace() -> str:
    """The organisation on the Hub that has the zoo's repositories: `PSPNET_ZOO_NAMESPACE`, or "pspnet-zoo"."""
    return os.environ.get("PSPNET_ZOO_NAMESPACE") or NAMESPACE


def download_checkpoint(
    repo: str,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder in the cache that holds a repository's `config.json` and `model.safetensors`, both compared with their digests.

    Args:
        repo: "org/repo".
        revision: Commit, tag or branch; None for "main".
        sha256: Of `model.safetensors`; None for what the Hub declares. `config.json` is compared with what the Hub declares.
        token: None takes the one that is logged in, False takes none.
        cache_dir: None for huggingface_hub's.
        local_files_only: Make no request.

    Raises:
        WeightsError: If a file cannot be had, or comes twice with another digest. Such a file is removed from the cache.
    """
    remote = _Remote(repo, token, cache_dir, local_files_only)
    config = remote.fetch(CONFIG_FILE, revision)
    commit = config.parent.name
    if not _COMMIT.fullmatch(commit):
        raise WeightsError(f"The server names the commit of '{repo}' {commit!r}, which is no commit. Check HF_ENDPOINT")
    _verify(remote, commit, config, None)
    _verify(remote, commit, remote.fetch(WEIGHTS_FILE, commit), f"sha256:{sha256}" if sha256 else None)
    return config.parent


def _verify(remote: "_Remote", commit: str, path: Path, pinned: str | None) -> None:
    """Compare a file of the cache with its digest; fetch another one once."""
    stamp = _read_stamp(path)
    digest = pinned or (stamp["digest"] if stamp else None)
    if digest and stamp == _stamp(path, digest):
        return
    digest = digest or remote.digest(path, commit)
    for attempt in ("first", "second"):
        if digest_as(path, digest) == digest:
            return remember_digest(path, digest)
        _remove(path)
        _log.warning("The %s '%s' of '%s' was not what its digest says, and is removed from the cache", attempt, path.name, remote)
        if attempt == "second" or remote.offline:
            break
        remote.fetch(path.name, commit)
    raise WeightsError(
        f"'{path.name}' of '{remote}' at {commit} is damaged or another file: its digest is not {digest}. Nothing was opened, "
        f"and the copy in '{path.parent}' is removed. "
        + ("Load it once with the network" if remote.offline else "Try again later, or from another network")
    )


@dataclass(frozen=True)
class _Remote:
    """A repository, and how it is reached."""

    repo: str
    token: str | bool | None
    cache_dir: str | PathLike[str] | None
    local_files_only: bool
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    """Digests by file name, by commit: the Hub is asked once."""

    def __str__(self) -> str:
        return self.repo

    @property
    def offline(self) -> bool:
        from huggingface_hub import constants

        return self.local_files_only or constants.HF_HUB_OFFLINE

    def fetch(self, name: str, revision: str | None) -> Path:
        """The file in the cache, downloaded if it is not there."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import LocalEntryNotFoundError

        cache_dir = None if self.cache_dir is None else Path(self.cache_dir)
        with explained(f"'{name}' of '{self.repo}'" + (f" at '{revision}'" if revision else ""), self.token):
            cached = try_to_load_from_cache(self.repo, name, cache_dir=cache_dir, revision=revision)
            if self.offline or (revision and _COMMIT.fullmatch(revision)):
                # not left to the client's download, which may ask the Hub something before it looks
                if isinstance(cached, str):
                    return Path(cached)
                if self.offline:
                    raise LocalEntryNotFoundError("no request is to be made")
            download = partial(hub_api(self.token).hf_hub_download, self.repo, name, revision=revision, cache_dir=cache_dir)
            found = retried(lambda: download(dry_run=True))
            # where the branch has another commit, the client has to note it
            if isinstance(cached, str) and found.local_path == cached:
                return Path(cached)
            if found.will_download and (found.file_size or 0) > MAX_BYTES:
                raise WeightsError(f"'{name}' of '{self.repo}' has {found.file_size:,} bytes; at most {MAX_BYTES:,} are fetched")
            path = retried(download)
        return Path(path)

    def digest(self, path: Path, commit: str) -> str:
        """The digest that the Hub declares for a file, or declared when the file was fetched."""
        if not self.offline:
            try:
                if commit not in self.answers:
                    self.answers[commit] = digests(self.repo, commit, self.token)[1]
                return self.answers[commit][path.name]
            except KeyError:
                raise WeightsError(f"The Hub declares no digest for '{path.name}' of '{self.repo}'; it is not opened") from None
            except WeightsError as error:
                _log.warning("%s. Taking the digest of its download", error)
        blob = path.resolve()
        kind = {40: "git", 64: "sha256"}.get(len(blob.name))
        # the client names a blob after the Hub's ETag, except in the store of Xet files that repositories share
        if kind is None or not blob.parent.parent.name.startswith("models--"):
            raise WeightsError(
                f"'{path}' was never compared with its digest, and there is no network to ask for it. Load it once with the network"
            )
        return f"{kind}:{blob.name}"


def digests(repo: str, revision: str, token: str | bool | None) -> tuple[Any, dict[str, str]]:
    """The Hub's description of a repository at a revision, and its digest of each file: "sha256:..." or "git:..." for a git blob.

    Raises:
        WeightsError: If the Hub does not answer, or refuses.
    """
    from huggingface_hub import constants

    api = hub_api(token)
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    with explained(f"'{repo}' at '{revision}'", token):
        info = retried(lambda: api.model_info(repo, revision=revision, files_metadata=True, timeout=timeout))
    found = {f.rfilename: f"sha256:{f.lfs.sha256}" if f.lfs else f"git:{f.blob_id}" for f in info.siblings or []}
    return info, found


def is_cached_or_reachable(repo: str, names: Sequence[str]) -> bool:
    """Whether one of a repository's files is in the client's cache, or else the Hub answers.

    It is asked once: the client itself asks for most of a minute before it gives up.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import OfflineModeIsEnabled

    if any(isinstance(try_to_load_from_cache(repo, name), str) for name in names):
        return True
    try:
        get_hf_file_metadata(hf_hub_url(repo, names[0]), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except OfflineModeIsEnabled:
        return False
    except Exception as error:
        return not is_unanswered(error)  # that it has no such file is an answer
    return True


def hub_api(token: str | bool | None):
    """A client that introduces itself as pspnet_zoo."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="pspnet_zoo")


def digest_as(path: Path, like: str) -> str:
    """The digest of a file, of the kind of another digest."""
    if like.startswith("git:"):
        data = path.read_bytes()
        return "git:" + hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return "sha256:" + file_digest(path, "sha256")


def _remove(path: Path) -> None:
    """Remove a file of the cache, and what it links to if that is in the cache too."""
    blob, cache = path.resolve(), path.parents[3].resolve()  # cache / models--org--repo / snapshots / commit / name
    path.unlink(missing_ok=True)
    if blob.is_relative_to(cache):
        blob.unlink(missing_ok=True)  # where there are no symbolic links, it was the same file


def verified_sha256(path: Path) -> str | None:
    """The sha256 that `download_checkpoint` has compared a file of the cache with, if the file was not touched since."""
    stamp = _read_stamp(path)
    digest = stamp["digest"] if stamp else ""
    return digest.removeprefix("sha256:") if digest.startswith("sha256:") and stamp == _stamp(path, digest) else None


def _stamp_file(path: Path) -> Path:
    name = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:32]
    return cache_folder() / "verified" / f"{name}.json"


def _stamp(path: Path, digest: str) -> dict[str, str | int]:
    """The size, time and inode by which a file is known to be unchanged since it was hashed."""
    stat = path.stat()
    return {"path": str(path), "digest": digest, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def _read_stamp(path: Path) -> dict[str, Any] | None:
    file = _stamp_file(path)
    if not file.is_file():
        return None
    try:
        stamp = json.loads(file.read_bytes())
    except ValueError:
        return None  # damaged: as if the file were not hashed yet
    return stamp if isinstance(stamp, dict) and isinstance(stamp.get("digest"), str) else None


def remember_digest(path: Path, digest: str) -> None:
    """Note that a file has this digest, "sha256:HEX" or "git:HEX", so that it is not hashed again until it is touched."""
    try:
        write_atomically(_stamp_file(path), json.dumps(_stamp(path, digest)).encode())
    except OSError as error:  # a cache that others filled, and may not be written
        _log.warning("'%s' will be hashed at every load, because its digest cannot be stored: %s", path, error)


def retried(call: Callable[[], _T]) -> _T:
    """The result of a call to the Hub, repeated after failures that pass; the client repeats some requests itself, but not all."""
    for pause in _PAUSES:
        try:
            return call()
        except Exception as error:
            if not is_passing(error):
                raise
            _log.warning("The Hub failed (%s); trying again in %g s", type(error).__name__, pause)
            time.sleep(pause)
    return call()
