"""GitHub on 127.0.0.1, as torch.hub asks it, for torch.hub's own unchanged code."""

import http.client
import io
import json
import re
import threading
import urllib.request
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _ToThisMachine(urllib.request.HTTPSHandler):
    """Opens every https address as http on a port of this machine; the request keeps its host name."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def https_open(self, req):
        return self.do_open(self._connect, req)

    def _connect(self, host, **kwargs):
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=kwargs.get("timeout") or 10)


def zipball(repo: str, ref: str, root: Path, paths: list[str]) -> bytes:
    """What GitHub's codeload gives: everything in one folder, which is the first entry."""
    top, buffer = f"{repo}-{ref.removeprefix('v')}", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{top}/", "")
        for path in paths:
            archive.write(root / path, f"{top}/{path}")
    return buffer.getvalue()


class GitHub:
    """One repository: its zipballs by ref, and the addresses that were asked for."""

    def __init__(self, owner: str, repo: str) -> None:
        self.name = f"{owner}/{repo}"
        self.zipballs: dict[str, bytes] = {}
        self.asked: list[str] = []

    def answer(self, url: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(url)
        if url == f"github.com/{self.name}/tree/main/":
            return 200, {}, b"a page"
        if match := re.fullmatch(rf"api\.github\.com/repos/{self.name}/(branches|tags)\?per_page=100&page=(\d+)", url):
            branches = [{"name": "main", "commit": {"sha": "a" * 40}}]
            tags = [{"name": ref, "commit": {"sha": "b" * 40}} for ref in self.zipballs if ref != "main"]
            found = branches if match[1] == "branches" else tags
            return 200, {}, json.dumps(found if match[2] == "1" else []).encode()
        if match := re.fullmatch(rf"github\.com/{self.name}/zipball/([^/]+)", url):
            return 302, {"Location": f"https://codeload.github.com/{self.name}/legacy.zip/refs/heads/{match[1]}"}, b""
        if match := re.fullmatch(rf"codeload\.github\.com/{self.name}/legacy\.zip/refs/heads/([^/]+)", url):
            return 200, {}, self.zipballs[match[1]]
        return 404, {}, b"no such page"


@contextmanager
def github(owner: str, repo: str):
    """A GitHub that urllib reaches until the end; every https address leads to it."""
    site = GitHub(owner, repo)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = site.answer(f"{self.headers['Host'].partition(':')[0]}{self.path}")
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    urllib.request.install_opener(urllib.request.build_opener(_ToThisMachine(server.server_address[1])))
    try:
        yield site
    finally:
        urllib.request.install_opener(urllib.request.build_opener())
        server.shutdown()
        server.server_close()
        thread.join()
