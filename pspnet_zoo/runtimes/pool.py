"""A pool of runtimes for threads, and the check of their number."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """Lends objects to threads, one at a time, and makes another when all are lent; their number is that of the threads at once."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._idle: list[T] = []

    @contextmanager
    def lend(self) -> Iterator[T]:
        """An object that no other thread has meanwhile."""
        try:
            item = self._idle.pop()  # atomic
        except IndexError:
            item = self._make()
        try:
            yield item
        finally:
            self._idle.append(item)


def check_threads(threads: int | None) -> None:
    """Raise a ValueError if a number of threads is not from 1 to 1024."""
    if threads is not None and not 1 <= threads <= 1024:
        raise ValueError(f"threads is {threads}; it must be 1 or more, at most 1024, or left out")
