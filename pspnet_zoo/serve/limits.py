"""The limits of a request, and the answer to one that exceeds them."""

from dataclasses import dataclass

from fastapi import HTTPException

from ..data.images import UPLOAD_MEGABYTES, UPLOAD_PIXELS

LARGEST = {
    "bytes": 2_000_000_000,  # which are held in memory
    "pixels": 178_956_970,  # Pillow refuses more
    "seconds": 86_400,
    "silence": 86_400,
    "waiting": 100_000,
    "workers": 1024,
}
"""The largest value of each limit."""


@dataclass(frozen=True)
class ServerLimits:
    """The limits of a server.

    Raises:
        ValueError: If a number is out of its range.
    """

    bytes: int = UPLOAD_MEGABYTES * 1_000_000
    """Most bytes of a request's body."""
    pixels: int = UPLOAD_PIXELS
    """Most pixels of an image."""
    seconds: float = 60.0
    """Longest time from a request to its answer; within it the body must have arrived."""
    silence: float = 5.0
    """Longest time without a byte of a body that is still expected, in seconds."""
    waiting: int = 20
    """Most requests that wait while the network is busy."""
    workers: int = 1
    """Number of threads that run the network."""

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value, is_allowed_zero = getattr(self, name), name == "waiting"
            if not (0 < value <= most or (is_allowed_zero and value == 0)):
                least = "0 or more" if is_allowed_zero else "positive"
                raise ValueError(f"{name} is {value}; it must be {least}, at most {most:,}")


def refusal(status: int, text: str, *, retry_after: int | None = None) -> HTTPException:
    """The error that answers a request with a status and a sentence."""
    return HTTPException(status, text, None if retry_after is None else {"Retry-After": str(retry_after)})
