"""One file from one address: resumed, retried with growing pauses, and there only once it is whole."""

import errno
import http.client
import json
import logging
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .errors import naming

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there, and with all there will be, where the server tells."""

MAX_BYTES = 4_000_000_000
"""Most bytes of a file; the largest published PSPNet checkpoint has less than a quarter."""

_CHUNK = 1 << 18
PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses worth another attempt
_NO_NETWORK = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}

_log = logging.getLogger(__name__)


class DownloadError(Exception):
    """A file that could not be fetched; the message has the address and the reason."""


def download(
    url: str,
    path: Path,
    *,
    has_hash: bool,
    attempts: int = 5,
    timeout: float = 30.0,
    pause: float = 1.0,
    progress: Progress | None = None,
) -> None:
    """Fetch a file whole. An interrupted download leaves `path` with ".part" after it, and is continued from there.

    Args:
        url: http or https.
        path: Where it goes; its folder exists.
        has_hash: Whether the caller compares the file with a published digest. Then a part is continued also where the server
            gives nothing to tell that the file is still the same.
        attempts: Failures in a row, without a byte gained, after which it gives up.
        timeout: Of a connection, and of each wait for bytes, in seconds.
        pause: Before the second attempt, in seconds; it doubles with each further failure.
        progress: Told of bytes as they come.

    Raises:
        DownloadError: If the server refuses, is not reached, sends more than `MAX_BYTES`, or the attempts are used up.
        OSError: If the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _fetch(url, part, has_hash, timeout, progress)
            break
        except _TooLarge:
            _forget(part)
            raise
        except _Passing as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= attempts:
                raise DownloadError(f"'{url}' could not be fetched in {failures} attempts: {error}") from error
            _log.info("'%s': %s; again in %g s", url, error, pause * 2 ** (failures - 1))
            time.sleep(pause * 2 ** (failures - 1))
    os.replace(part, path)
    _forget(part)


class _TooLarge(DownloadError):
    """A file that is larger than any that is fetched."""


class _Passing(Exception):
    """A failure that may be over at the next attempt."""


def _fetch(url: str, part: Path, has_hash: bool, timeout: float, progress: Progress | None) -> None:
    """One attempt at all that is missing from `part`."""
    headers = {"User-Agent": "pspnet_zoo", "Accept-Encoding": "identity"}
    have, validator = _size(part), _read_validator(part, url)
    if have and (validator or has_hash):
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # there is nothing after what we have: the file on the server is another one
                part.unlink()
                raise _Passing(f"the server's file is no longer {have} bytes or more") from error
            if error.code in PASSING_STATUSES:
                raise _Passing(f"the server says {error.code} {error.reason}") from error
            raise DownloadError(f"'{url}' could not be fetched: the server says {error.code} {error.reason}") from error
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) in _NO_NETWORK:
            raise DownloadError(f"'{url}' could not be fetched: there is no network, or no such server ({reason})") from error
        raise _Passing(str(reason)) from error
    with response:
        continued = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not continued:
            have = 0
            part.unlink(missing_ok=True)  # first, so that no part is ever taken for one of another validator
            _write_validator(part, url, response.headers)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        with naming(part), part.open("ab") as file:
            while True:
                if max(have, total or 0) > MAX_BYTES:
                    raise _TooLarge(f"'{url}' has more than {MAX_BYTES / 1e9:g} GB, the most that is fetched: it is another file")
                try:
                    chunk = response.read(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise _Passing(f"the connection broke after {have} bytes ({error})") from error
                if not chunk:
                    break
                file.write(chunk)
                have += len(chunk)
                if progress:
                    progress(have, total)
    if total is not None and have != total:
        raise _Passing(f"the connection ended after {have} of {total} bytes")


def _forget(part: Path) -> None:
    """Delete a part, and what is known of it."""
    for file in (part, _validator_file(part)):
        file.unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_validator(part: Path, url: str) -> str | None:
    """The validator by which the server confirms that its file is still the one of `part`; None if there is none."""
    try:
        known = json.loads(_validator_file(part).read_bytes())
        return known["validator"] if known["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing, or cut short when the process was killed: as if there were none


def _write_validator(part: Path, url: str, headers: http.client.HTTPMessage) -> None:
    etag = headers.get("ETag", "")
    validator = etag if etag.startswith('"') else headers.get("Last-Modified")  # a weak tag does not do for ranges
    _validator_file(part).write_text(json.dumps({"url": url, "validator": validator}))
