"""The image in a request's body, read into memory within the limits; names of files in it are not used."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from .limits import ServerLimits, refusal

FIELD = "image"
"""The name of the image in a form."""


async def receive_image(request: Request, limits: ServerLimits, deadline: float) -> bytes:
    """Read the file that a request carries, as its body or as the field `FIELD` of a form.

    Args:
        request: A request whose body has not been taken.
        limits: See `ServerLimits`.
        deadline: Time of the event loop until which the body must have arrived.

    Raises:
        HTTPException: If there is no image, its type is another, or it is too large or too slow.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if request.headers.get("content-encoding", "identity") != "identity":
        raise refusal(415, "Content-Encoding is not supported; send the image file as it is.")
    if kind == b"multipart/form-data":
        form = _Form(options.get(b"boundary", b""))
        async for chunk in _chunks(request, limits, deadline):
            form.feed(chunk)
        image = form.image()
    elif kind in (b"", b"application/octet-stream") or kind.startswith(b"image/"):
        image = b"".join([chunk async for chunk in _chunks(request, limits, deadline)])
    else:
        raise refusal(
            415,
            "This Content-Type is not that of an image. Send the file as the body with Content-Type: image/jpeg or that of its "
            f"format, or in a form of multipart/form-data as the field '{FIELD}'.",
        )
    if not image:
        raise refusal(400, "There is no image: the file is empty.")
    return image


async def _chunks(request: Request, limits: ServerLimits, deadline: float) -> AsyncIterator[bytes]:
    """The body as it arrives."""
    too_large = refusal(413, f"The body has more than {limits.bytes / 1e6:g} MB, the most that is accepted. Send a smaller file.")
    stated = request.headers.get("content-length", "0")
    if int(stated) > limits.bytes:
        raise too_large
    loop, stream, count = asyncio.get_running_loop(), request.stream(), 0
    with suppress(StopAsyncIteration):
        while True:
            try:
                left = min(deadline - loop.time(), limits.silence)
                chunk = await asyncio.wait_for(anext(stream), max(left, 0.001))
            except (asyncio.TimeoutError, TimeoutError):
                raise refusal(408, "The image did not arrive in time. Send it faster, or send a smaller file.") from None
            except ClientDisconnect:
                raise refusal(400, "The connection was closed before the image had arrived.") from None
            count += len(chunk)
            if count > limits.bytes:
                raise too_large
            yield chunk


class _Form:
    """A form with one field, the image."""

    def __init__(self, boundary: bytes) -> None:
        self._header, self._value, self._data = b"", b"", bytearray()
        self._parts, self._ended = 0, False
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add("_header", data[start:end]),
            "on_header_value": lambda data, start, end: self._add("_value", data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError:
            raise _wrong_form() from None
        if not boundary:
            raise _wrong_form()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise _wrong_form() from None

    def image(self) -> bytes:
        """The file, once all bytes are there."""
        if not self._ended:
            raise _wrong_form()
        return bytes(self._data)

    def _begin(self) -> None:
        self._parts += 1
        self._name = b""
        if self._parts > 1:
            raise refusal(400, f"The form has several fields; send one, '{FIELD}', with one file.")

    def _add(self, name: str, data: bytes) -> None:
        setattr(self, name, getattr(self, name) + data)

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._name = parse_options_header(self._value.decode("latin-1"))[1].get(b"name", b"")
        self._header = self._value = b""

    def _end_headers(self) -> None:
        if self._name != FIELD.encode():
            raise refusal(400, f"The form has another field than '{FIELD}'; send the file as the field '{FIELD}'.")

    def _end(self) -> None:
        self._ended = True


def _wrong_form() -> Exception:
    return refusal(400, "The form cannot be read; it must be multipart/form-data with a boundary, and complete.")
