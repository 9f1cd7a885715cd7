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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from ..models import PSPNet
from ..upstream.cache import cache_folder
from ..upstream.foreign import file_digest
from ..zoo.rows import HubCopy
from . import files
from .download import PASSING_STATUSES
from .files import CONFIG_FILE, WEIGHTS_FILE, WeightsError, write_atomically

NAMESPACE = "pspnet-zoo"

_REPO = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>.+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PAUSES = (1.0, 3.0)  # seconds before the second and the third attempt, on top of the client's own

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Declared = Callable[[], dict[str, str]]  # asks the Hub for the digests of a commit's files


def namespace() -> str:
    """The organisation on the Hub that has the zoo's repositories: `PSPNET_ZOO_NAMESPACE`, or "pspnet-zoo"."""
    return os.environ.get("PSPNET_ZOO_NAMESPACE") or NAMESPACE


def from_pretrained(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
    strict: bool = True,
    classes: int | None = None,
    **options: Any,
) -> PSPNet:
    """The network of a checkpoint on the Hub or in a folder, in evaluation mode.

    A repository at a full commit that is in the cache is loaded without a request; at a branch or tag, the Hub is asked where it
    is now, and the cached copy serves while the Hub is down. `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE` and `HF_TOKEN` mean what
    they mean to huggingface_hub.

    Args:
        source: "org/repo", "org/repo@revision", or the folder that `save_pretrained` wrote; a folder that exists comes first.
        revision: Commit, tag or branch of a repository; None for "main".
        token: For private and gated repositories; None takes the one that is logged in.
        cache_dir: Of the Hub's files; None for huggingface_hub's.
        local_files_only: Make no request; take what is in the cache.
        strict: False leaves tensors that the file lacks untrained and drops those that the network lacks, and logs which.
        classes: Another number of classes re-makes the classifier, untrained, and keeps everything else.
        options: Arguments of PSPNet that replace those of `config.json` and change no tensor, such as `psp_dropout`;
            `aux_head` may be switched.

    Raises:
        WeightsError: If the checkpoint cannot be had, is not what the Hub says it is, or does not fit its own config.
        ValueError: If two revisions are asked for, or one of a folder.
        TypeError: If an option is no argument of PSPNet.
    """
    match = _REPO.fullmatch(source) if isinstance(source, str) and not Path(source).is_dir() else None
    if match is None:
        if revision is not None:
            raise ValueError(f"'{source}' is a folder, which has no revision {revision!r}; leave it out")
        folder = Path(source)
    else:
        named = match["revision"]
        if named and revision and named != revision:
            raise ValueError(f"'{source}' asks for '{named}', but revision={revision!r}; give one of them")
        folder = download(
            match["repo"],
            revision=revision or named,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
    return files.from_pretrained(folder, strict=strict, classes=classes, **options)


def download_copy(copy: HubCopy) -> Path:
    """The folder of a row's copy on the Hub, compared with the row's sha256.

    Raises:
        WeightsError: As `download`.
    """
    return download(f"{namespace()}/{copy.repo}", revision=copy.revision, sha256=copy.sha256)


def download(
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
    declared = cache(lambda: digests(repo, commit, token)[1])
    _verified(remote, commit, config, None, declared)
    _verified(remote, commit, remote.fetch(WEIGHTS_FILE, commit), f"sha256:{sha256}" if sha256 else None, declared)
    return config.parent


def _verified(remote: "_Remote", commit: str, path: Path, pinned: str | None, declared: _Declared) -> None:
    """Compare a file of the cache with its digest; fetch another one once."""
    stamp = _read_stamp(path)
    digest = pinned or (stamp["digest"] if stamp else None)
    if digest and stamp == _stamp(path, digest):
        return
    digest = digest or remote.declared(path, declared)
    for attempt in ("first", "second"):
        if digest_as(path, digest) == digest:
            return _write_stamp(path, digest)
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
            if self.offline or (revision and _COMMIT.fullmatch(revision)):
                # not left to the client's download, which may ask the Hub something before it looks
                found = try_to_load_from_cache(self.repo, name, cache_dir=cache_dir, revision=revision)
                if isinstance(found, str):
                    return Path(found)
                if self.offline:
                    raise LocalEntryNotFoundError("no request is to be made")
            api = hub_api(self.token)
            path = retried(lambda: api.hf_hub_download(self.repo, name, revision=revision, cache_dir=cache_dir))
        return Path(path)

    def declared(self, path: Path, declared: _Declared) -> str:
        """The digest that the Hub declares, or declared when the file was fetched."""
        if not self.offline:
            try:
                return declared()[path.name]
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
    """What the Hub says of a repository at a revision, and its digest of each file: "sha256:..." or "git:..." for a git blob.

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
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)  # where there are no symbolic links, it was the same file


def _stamp_file(path: Path) -> Path:
    name = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:32]
    return cache_folder() / "verified" / f"{name}.json"


def _stamp(path: Path, digest: str) -> dict[str, str | int]:
    """What tells that a file with this digest was not touched since."""
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


def _write_stamp(path: Path, digest: str) -> None:
    try:
        write_atomically(_stamp_file(path), json.dumps(_stamp(path, digest)).encode())
    except OSError as error:  # a cache that others filled, and may not be written
        _log.warning("'%s' will be hashed at every load, because that it was cannot be noted: %s", path, error)


def retried(call: Callable[[], _T]) -> _T:
    """What a call to the Hub returns, repeated after failures that pass; the client repeats some requests itself, but not all."""
    for pause in _PAUSES:
        try:
            return call()
        except Exception as error:
            if not is_passing(error):
                raise
            _log.warning("The Hub failed (%s); trying again in %g s", type(error).__name__, pause)
            time.sleep(pause)
    return call()


def is_passing(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    from huggingface_hub.errors import HfHubHTTPError

    if type(error) is RuntimeError and error.__cause__:
        return is_passing(error.__cause__)  # the client wraps what fails in an upload
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING_STATUSES
    # the client raises a plain OSError for a file of the wrong size
    return _is_transport(error) or (type(error) is OSError and error.errno is None)


def _is_transport(error: BaseException) -> bool:
    # huggingface_hub 1 lets errors of httpx through, 2 those of httpx2
    return any(base.__module__.partition(".")[0] in ("httpx", "httpx2") for base in type(error).__mro__)


@contextmanager
def explained(what: str, token: str | bool | None) -> Iterator[None]:
    """Turn whatever the Hub's client raises into a WeightsError.

    Args:
        what: The file or repository, for the message.
        token: Never in the message, also if a server repeats it.

    Raises:
        WeightsError: For any of the client's errors; a WeightsError passes.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
        return
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, RuntimeError, HfHubHTTPError)) and not _is_transport(error):
            raise
        text = _explanation(error, what, constants.ENDPOINT)
    for secret in (token, get_token()):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    raise WeightsError(text) from None


def _explanation(error: Exception, what: str, endpoint: str) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__  # the Hub did answer
    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what failed in an upload
    log_in = "log in with 'hf auth login' or set HF_TOKEN"
    # the first that fits; a gated repository is "not found" too, and a local entry is an entry
    cases: tuple[tuple[type[Exception], str], ...] = (
        (errors.GatedRepoError, f"is gated: accept its terms on {endpoint} with your account, then {log_in}"),
        (errors.RepositoryNotFoundError, f"is not on {endpoint}, nor is it a folder here; if it is private, {log_in} as a member"),
        (errors.RevisionNotFoundError, "is not there: the repository has no such revision. Leave it out for the newest"),
        (
            errors.LocalEntryNotFoundError,
            f"is not in the cache, and {endpoint} was not asked or not reached. Load it once with the network; see HF_HUB_OFFLINE",
        ),
        (
            errors.EntryNotFoundError,
            f"is not there: a checkpoint has {CONFIG_FILE} and {WEIGHTS_FILE}; other formats, such as pickles, are not read",
        ),
        (errors.OfflineModeIsEnabled, "needs the network, but HF_HUB_OFFLINE is set"),
        (errors.HFValidationError, "is no repository of the Hub: write 'organisation/name'"),
    )
    for kind, text in cases:
        if isinstance(error, kind):
            return f"{what} {text}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        hint = f"{log_in}, with a token that may do this" if status in (401, 403) else "try again later"
        return f"{what}: {endpoint} answered {status} ({_first_line(error)}). Next: {hint}"
    return f"{what}: {endpoint} failed ({type(error).__name__}: {_first_line(error)}). Try again, or check the network"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"
