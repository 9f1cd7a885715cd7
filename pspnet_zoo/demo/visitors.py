"""Visitors of the page: which files it opens for them, what it tells them, and how often they may try a password."""

import atexit
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ..data.images import UPLOAD_MEGABYTES, ImageError
from ..storage.errors import WeightsError
from .models import Models

MAX_LOGINS = 10
"""Passwords that may be tried from one address in `LOGIN_SECONDS`."""
LOGIN_SECONDS = 60.0
_REMEMBERED = 10_000  # addresses
MAX_STORED = 1_000_000_000
"""Most bytes of visitors' files and results together; the oldest make room."""
MAX_FILES = 2000
"""Most files of visitors together."""
MAX_BODY = (UPLOAD_MEGABYTES + 1) * 1024**2
"""Most bytes of an upload, all its files together."""
KEPT: set[str] = set()
"""The page's own files in Gradio's cache, its example photos, which make no room."""

_log = logging.getLogger(__name__)
_making_room = threading.Lock()


@cache
def use_private_cache() -> None:
    """Keep Gradio's files in a new folder that only this user can read and that is deleted when the process ends.

    Gradio deletes single files an hour after they were made. `GRADIO_TEMP_DIR`, if set, names the folder to make it in: what else
    is there is neither opened for visitors nor deleted.
    """
    parent = os.path.abspath(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    os.makedirs(parent, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = folder = tempfile.mkdtemp(prefix="pspnet_zoo_demo_", dir=parent)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def result_folder() -> Path:
    """A new folder in Gradio's cache, with room made; its files Gradio neither copies nor forgets to delete."""
    folder = get_upload_folder()
    os.makedirs(folder, exist_ok=True)
    make_room(Path(folder))
    return Path(tempfile.mkdtemp(dir=folder))


def take_uploads_only(component: gr.components.Component) -> None:
    """Let an input component accept uploaded files only, and hand on their paths without opening them.

    Gradio checks a path only where the request carries its own mark, `meta`; it downloads addresses for visitors; and it opens
    images before this package can say what is wrong with them.
    """

    async def in_place(path: str | os.PathLike[str] | None) -> str | None:
        return None if path is None else uploaded(str(path))

    component.async_move_resource_to_block_cache = in_place  # type: ignore[method-assign]
    component.preprocess = lambda payload: uploaded(payload.path) if payload else None  # type: ignore[method-assign]


def model_menu(offered: Models) -> gr.Dropdown:
    """A list of the models, which shows none of the host's paths and takes them where a program of the host sends one."""
    menu = gr.Dropdown(offered.choices, value=offered.choices[0][1], label="Model", interactive=True)
    check = menu.preprocess
    menu.preprocess = lambda sent: check(offered.public_name(sent))  # type: ignore[method-assign]
    return menu


def uploaded(path: str | None) -> str:
    """The path, if it is that of a regular file in Gradio's upload cache; no link is followed out of it.

    Raises:
        gr.Error: If it is anything else; the message does not tell whether the file exists.
    """
    cache = os.path.realpath(get_upload_folder())
    real = os.path.realpath(path or "")
    if real.startswith(cache + os.sep) and os.path.isfile(real) and not stat.S_ISLNK(os.lstat(str(path)).st_mode):
        return real
    raise gr.Error("This page opens uploaded files only; upload the file again", print_exception=False)


def message(error: Exception, file: str | None) -> str:
    """The message of an error for a visitor: a sentence without the machine's paths and commands, which go into the log."""
    if isinstance(error, ImageError):
        return str(error).replace(str(file), Path(file).name) if file else str(error)
    _log.error("A visitor's file was not segmented", exc_info=error)
    if isinstance(error, WeightsError):
        return "This model cannot be loaded now. Choose another one."
    if isinstance(error, MemoryError) or "memory" in str(error):
        return "This machine has not enough memory for it. Try a smaller file, or a smaller model."
    return "This did not work. Whoever runs this page finds the reason in its log."


class LoginLimit:
    """ASGI middleware that refuses passwords from an address that has tried too many."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._tried: OrderedDict[str, deque[float]] = OrderedDict()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_login = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/login")
        if not is_login:
            await self.app(scope, receive, send)
            return
        address, now = (scope.get("client") or ("",))[0], time.monotonic()
        tried = self._tried.setdefault(address, deque())
        self._tried.move_to_end(address)
        while len(self._tried) > _REMEMBERED:
            self._tried.popitem(last=False)
        while tried and tried[0] < now - LOGIN_SECONDS:
            tried.popleft()
        if len(tried) >= MAX_LOGINS:
            seconds = round(tried[0] + LOGIN_SECONDS - now) + 1
            said = f"Too many wrong passwords; try again in {seconds} seconds."
            await _refuse(send, 429, said, (b"retry-after", str(seconds).encode()))
            return
        tried.append(now)  # before the password is looked at, so that many at once are counted too

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                tried.clear()
            await send(message)

        await self.app(scope, receive, watched)


class ClosedRoutes:
    """ASGI middleware that answers 404 on Gradio's routes that the page does not use.

    One of them, `process_recording`, hands any file to FFmpeg's program, outside the cache and without a limit of time.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and _UNUSED.search(scope["path"]):
            await _refuse(send, 404, "Not Found")
        else:
            await self.app(scope, receive, send)


_UNUSED = re.compile(
    r"/(process_recording|monitoring|vibe-\w+|undo-vibe-edit|dev/reload|proxy=|profiling|run-history|deep_link|component_server)"
)


class UploadLimit:
    """ASGI middleware that bounds what visitors store: the bytes of an upload, and of all of them together."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_upload = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")
        if not is_upload:
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY:
            await _refuse(send, 413, f"An upload has at most {UPLOAD_MEGABYTES} MB.")
            return
        make_room(Path(get_upload_folder()))
        received = 0

        async def counted() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message if received <= MAX_BODY else {"type": "http.disconnect"}  # it stated no length

        has_answered = False

        async def watched(message: Any) -> None:
            nonlocal has_answered
            has_answered = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except TypeError as error:  # Gradio's, of a field "files" that is no file
            if has_answered:
                raise
            _log.info("An upload without a file was refused: %s", error)
            await _refuse(send, 400, "An upload is a form with files in its field 'files', each with a name.")


def make_room(folder: Path) -> None:
    """Delete the oldest files of a folder, but for those `KEPT`, until it has at most `MAX_STORED` bytes and `MAX_FILES` files."""
    with _making_room:
        found = []
        for parent, _, names in os.walk(folder):  # which passes over folders that vanish; rglob of Python 3.11 raises
            for file in (Path(parent, name) for name in names):
                with suppress(OSError):  # deleted meanwhile
                    if stat.S_ISREG((facts := file.lstat()).st_mode) and str(file) not in KEPT:
                        found.append((facts.st_mtime, facts.st_size, file))
        count, size = len(found), sum(size for _, size, _ in found)
        for _, each, file in sorted(found):
            if size <= MAX_STORED and count <= MAX_FILES:
                return
            file.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                file.parent.rmdir()
            count, size = count - 1, size - each


async def _refuse(send: Any, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"detail": text}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json"), *headers]})
    await send({"type": "http.response.body", "body": body})
