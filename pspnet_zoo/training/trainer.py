"""The process of a training run: alone in the run's folder, and stopped by signals at any moment. Imports nothing heavy."""

import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..interrupts import SIGNALS, postpone

_LOCK = ".lock"


class Stopped(KeyboardInterrupt):
    """A signal arrived before the first step, or before a resumed run's next one; nothing was changed."""


class Trainer:
    """Holds a run's folder and hears SIGINT, SIGTERM and SIGHUP, from entering to leaving the block.

    While the run is prepared, a signal raises `Stopped` at once. After `begin` it is only noted in `signal`, so that the step is
    finished and saved. A signal handler of the caller's is called too; where SIGHUP is ignored, as by `nohup`, it stays ignored.
    Outside the main thread no signals are heard.

    Args:
        folder: Of the run; it is made if it does not exist, and removed again if nothing was written.
        leads: Whether this process writes to the folder; of several processes that train together, one does.

    Attributes:
        signal: The number of the last signal; None if there was none.

    Raises:
        ValueError: On entering, if another run holds the folder.
    """

    def __init__(self, folder: Path, *, leads: bool = True) -> None:
        self.folder, self.leads, self.signal = folder, leads, None
        self._lock = FileLock(folder / _LOCK) if leads else None
        self._prepares = True
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Trainer":
        if self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise ValueError(f"Another run is writing to '{self.folder}'; wait for its end, or choose another folder") from None
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            # nohup ignores SIGHUP, and is obeyed; SIGINT, which shells ignore for jobs in the background, is heard
            self._handlers = {n: handler for n, handler in handlers.items() if n in SIGNALS[:2] or handler is not signal.SIG_IGN}
            for number in self._handlers:
                signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._lock:
            self._lock.release()
            with suppress(OSError):  # on Windows, while another process tries the lock
                (self.folder / _LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # it is not empty
                self.folder.rmdir()

    def begin(self) -> None:
        """End the preparation: from here on signals are noted.

        Raises:
            Stopped: If there was a signal whose exception was lost, as in a destructor.
        """
        if self.signal is not None:
            raise Stopped(self.signal)
        self._prepares = False

    def _handle(self, number: int, frame: Any) -> None:
        if self._prepares and postpone(number, frame):
            return
        self.signal = number
        before = self._handlers[number]
        if callable(before) and before is not signal.default_int_handler:
            with suppress(KeyboardInterrupt):  # of the command's own handler; the run decides when it ends
                before(number, frame)
        if self._prepares:
            raise Stopped(number)
