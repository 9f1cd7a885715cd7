"""A server on 127.0.0.1 that gives files and makes trouble on request."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Trouble:
    """What happens to one request."""

    status: int = 200
    stop_after: int | None = None
    """Bytes of the body after which the connection closes."""
    body: bytes | None = None
    """In place of the file."""


@dataclass
class FileServer:
    """Serves `files` by path; `troubles` are taken from the front, one a request."""

    files: dict[str, bytes] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    ranges: bool = True
    validator: Callable[[bytes], str] | None = lambda body: f'"{hash(body):x}"'
    pace: float | None = None
    """Seconds before each 64 KiB."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of each."""
    states_length: bool = True
    port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def __enter__(self) -> "FileServer":
        server, wake = self, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                wanted = self.headers.get("Range")
                server.requests.append((path, wanted))
                trouble = server.troubles.pop(0) if server.troubles else Trouble()
                body = server.files.get(path) if trouble.body is None else trouble.body
                if body is None or trouble.status != 200:
                    self.send_error(404 if body is None else trouble.status)
                    return
                validator = server.validator(body) if server.validator else None
                start = 0
                condition = self.headers.get("If-Range")
                if wanted and server.ranges and (condition is None or condition == validator):
                    start = int(wanted.removeprefix("bytes=").rstrip("-"))
                    if start >= len(body):
                        self.send_error(416)
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                else:
                    self.send_response(200)
                if validator:
                    self.send_header("ETag", validator)
                if server.states_length:
                    self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                end = len(body) if trouble.stop_after is None else start + trouble.stop_after
                for at in range(start, end, 1 << 16):
                    if server.pace:
                        wake.wait(server.pace)
                    self.wfile.write(body[at : min(at + (1 << 16), end)])
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients that are killed close their connections

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
