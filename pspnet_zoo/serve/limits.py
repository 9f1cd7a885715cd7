"""The limits of a request, and the answer to one that exceeds them."""

from dataclasses import dataclass

from fastapi import HTTPException

from ..data.images import UPLOAD_MEGABYTES, UPLOAD_PIXELS


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
        for name in ("bytes", "pixels", "seconds", "silence", "workers"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.workers > 1024:
            raise ValueError(f"workers is {self.workers}; it can be 1 to 1024")
        if not 0 <= self.waiting <= 100_000:
            raise ValueError(f"waiting is {self.waiting}; it must be 0 or more, at most 100,000")


def refusal(status: int, text: str, *, retry_after: int | None = None) -> HTTPException:
    """The error that answers a request with a status and a sentence."""
    return HTTPException(status, text, None if retry_after is None else {"Retry-After": str(retry_after)})
