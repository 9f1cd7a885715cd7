"""Runs the server with uvicorn, and bounds what a connection may cost."""

import asyncio
import math
import socket
import sys
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..inference.predictor import Predictor
from .app import SegmentationService
from .limits import ServerLimits

IDLE_SECONDS = 10
"""Longest time for the headers of a request, for a body that is not wanted, and between requests."""
CLOSING_SECONDS = 60
"""Longest time in which a client may take an answer once all of it was sent."""
HEADER_BYTES = 16 * 1024
CONNECTIONS = 512
"""Most connections at a time; a request on a further one is answered with 503."""


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, which waits for headers without end, with limits of time."""

    _idle_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._bound()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of an unfinished header, or of a body that is not wanted, do not prolong the time."""
        super().data_received(data)
        self._bound()

    def on_response_complete(self) -> None:
        """Wait for the next request, and for the rest of a body that was not wanted."""
        super().on_response_complete()
        self._bound()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, at last also to a client that does not take its answer."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(CLOSING_SECONDS, self.transport.abort)

    def _bound(self) -> None:
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = self.loop.time()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_at(self._idle_since + IDLE_SECONDS, self.timeout_keep_alive_handler)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 lets the system choose one.

    Raises:
        OSError: If the address is not of this machine, or taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        raise OSError(
            f"The server cannot listen on '{host}', port {port}: {error.strerror}. Choose another --host or --port"
        ) from None


def serve_forever(
    listener: socket.socket,
    name: str,
    load: Callable[[], Predictor],
    *,
    limits: ServerLimits,
    token: str | None,
    ready: Callable[[], None] = lambda: None,
    started: Callable[[uvicorn.Server], None] = lambda server: None,
) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish those that have begun.

    Args:
        listener: See `listen`; it is closed at the end.
        name: The model's name for clients.
        load: Makes the predictor.
        limits: See `ServerLimits`.
        token: That requests must carry; None for none.
        ready: Called once the model is loaded.
        started: Called with the server before it runs; its `should_exit` ends it.

    Raises:
        Exception: Whatever `load` raises.
    """
    failures: list[Exception] = []

    def loaded(error: Exception | None) -> None:
        if error is None:
            ready()
        else:
            failures.append(error)
            server.should_exit = True

    service = SegmentationService(name, load, limits=limits, token=token, loaded=loaded)
    server = uvicorn.Server(
        uvicorn.Config(
            service.app,
            http=BoundedProtocol,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=math.ceil(limits.seconds) + 1,
            h11_max_incomplete_event_size=HEADER_BYTES,
            limit_concurrency=CONNECTIONS,
        )
    )
    started(server)
    with listener:
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn raises a signal again once it has finished
            if not server.started or server.force_exit:
                raise
    if failures:
        raise failures[0]
    if not server.started:
        sys.exit(1)
